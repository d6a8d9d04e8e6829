"""The text of a model: the path that it leads to, and its form in a report."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import pytest

from tallies.recipe.config import MergeConfig
from tallies.recipe.places import Places
from tallies.recipe.text import from_options


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory of the user, with a model; the current directory is another."""
    (tmp_path / "home" / "e1").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_a_tilde_is_the_home_directory(home: Path) -> None:
    own = pwd.getpwuid(os.getuid())
    places = Places.of()
    assert places.path("~/e1") == str(home / "e1")
    assert places.path("~") == str(home)
    assert places.path(f"~{own.pw_name}/e1") == os.path.normpath(f"{own.pw_dir}/e1")
    assert places.path("~nobody of that name/e1") == str(Path.cwd() / "~nobody of that name/e1")
    assert places.path("a~/e1") == str(Path.cwd() / "a~/e1")
    assert places.path("./~/e1") == str(Path.cwd() / "~/e1")
    assert places.path("$HOME/e1") == str(Path.cwd() / "$HOME/e1")
    assert places.path("") == ""


def test_all_forms_of_a_request_expand_a_tilde(home: Path) -> None:
    recipe = {"merge_method": "linear", "models": [{"model": "~/e1"}], "files_from": "~/e1"}
    file = home / "recipe.json"
    file.write_text(json.dumps(recipe))
    for config in (
        MergeConfig.load(recipe),
        MergeConfig.load(file),
        MergeConfig.load(recipe | {"models": [{"model": Path("~/e1")}]}),
        MergeConfig.load(from_options("linear", None, ["~/e1:weight=1"])),
        MergeConfig.load(file).replace(seed=1),
    ):
        assert config.models[0].model == "~/e1"
        assert config.places.path(config.models[0].model) == str(home / "e1")


def test_a_colon_in_the_name_of_a_model_at_home(home: Path) -> None:
    (home / "run:lr=1").mkdir()
    (entry,) = MergeConfig.load(from_options("linear", None, ["~/run:lr=1"])).models
    assert (entry.model, entry.parameters) == ("~/run:lr=1", {})


def test_the_current_directory_is_that_of_the_request(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = MergeConfig.load({"merge_method": "linear", "models": [{"model": "m"}]})
    here = Path.cwd()
    monkeypatch.chdir(home)
    assert config.places.path("m") == str(here / "m")
    assert config.replace(seed=2).places.path("m") == str(here / "m")


def test_a_recipe_found_through_a_link(home: Path, tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "model").mkdir()
    (home / "link").symlink_to(tmp_path / "deep" / "er")
    places = Places.of(str(home / "link" / "recipe.yml"))
    assert os.path.samefile(places.path("../model"), tmp_path / "deep" / "model")


def test_the_base_is_known_by_any_of_its_names(home: Path) -> None:
    (home / "link").symlink_to("e1")
    (home / "e2").mkdir()
    for name in ("~/e1", str(home / "e1"), "../home/e1/", "~/link"):
        models = [{"model": name}, {"model": "~/e2"}]
        config = MergeConfig.load(
            {"merge_method": "task_arithmetic", "base_model": "~/e1", "models": models}
        )
        experts, (warning,) = config.experts()
        assert [entry.model for entry in experts] == ["~/e2"]
        assert warning == f"model {name!r} is the base_model and adds nothing: left out"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m", "../here/m"),
        ("./m/", "../here/m"),
        ("../m", "../m"),
        ("~/e1", "~/e1"),
        ("link", "../here/link"),
        ("down/m", "../deep/m"),
    ],
)
def test_a_report_names_models_relative_to_itself(
    home: Path, tmp_path: Path, text: str, expected: str
) -> None:
    Path("m").mkdir()
    Path("link").symlink_to("m")
    (tmp_path / "deep" / "m").mkdir(parents=True)
    Path("down").symlink_to("../deep")
    places = Places.of()
    found = places.relative_to(tmp_path / "out", text)
    assert found == expected
    assert places.relative_to("../out", str(Path.cwd() / text) if text[0] != "~" else text) == found
    (tmp_path / "out").mkdir()
    again = Places.of(str(tmp_path / "out" / "tallies.json"), is_report=True)
    assert again.identity(found) == places.identity(text)
    assert again.relative_to(tmp_path / "out", found) == found


def test_the_file_system_is_asked_once_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places.of()
    texts = [str(tmp_path / name) for name in "abc"]
    asked: list[str] = []
    realpath = os.path.realpath

    def counting(path: str) -> str:
        asked.append(path)
        return realpath(path)

    monkeypatch.setattr(os.path, "realpath", counting)
    found = [[places.identity(text) for text in texts] for _ in range(3)]
    assert found == [texts] * 3 and asked == texts
    (tmp_path / "b").symlink_to("a")
    assert places.anew().identity(texts[1]) == texts[0]
    assert places.anew() == places
