"""Merges of models of the hub: downloads into the shared cache, and the commit in the report."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tallies import merge
from tests.reference.ties import ties_model
from tests.support.checkpoints import Model, assert_holds, data_bytes, write
from tests.support.command import COMMAND, assert_failed, tallies
from tests.support.command_line import printed
from tests.support.hub import Hub

REQUEST = ("--method", "ties", "--base", "org/base", "--model", "org/one", "--model", "org/two")


@pytest.fixture
def expected(models: dict[str, Model]) -> Model:
    return ties_model(models["base"], [models["one"], models["two"]], 0.2)


def test_a_merge_downloads_what_it_needs(expected: Model, hub: Hub, home: Path) -> None:
    ended = tallies("merge", *REQUEST, "out")
    assert (ended.status, ended.err) == (0, "")
    assert_holds(Path("out"), expected)
    assert Path("out/tokenizer.json").stat().st_size > 300_000
    assert not any(path.is_symlink() for path in Path("out").rglob("*"))
    files = {path.name for path in (home / "hub").rglob("snapshots/*/*")}
    assert files == {"config.json", "tokenizer.json", "model.safetensors"}


def test_a_repeat_takes_the_commit_of_the_report(
    expected: Model, models: dict[str, Model], hub: Hub, tmp_path: Path
) -> None:
    printed("merge", *REQUEST[:-2], "--model", "hf://org/two@v1", "out")
    recipe = json.loads(Path("out/tallies.json").read_text())["recipe"]
    assert recipe["base_model"] == f"org/base@{hub.models['org/base'].refs['v1']}"
    assert recipe["models"][1]["model"] == f"org/two@{hub.models['org/two'].refs['v1']}"
    other = write(tmp_path / "published" / "later", models["base"])
    hub.directory("org/two", other, "v1")
    printed("merge", "out/tallies.json", "again")
    assert data_bytes(Path("again")) == data_bytes(Path("out"))
    printed("merge", *REQUEST, "anew")
    assert data_bytes(Path("anew")) != data_bytes(Path("out"))


def test_the_card_names_ids_and_commits(expected: Model, hub: Hub, tmp_path: Path) -> None:
    printed("merge", *REQUEST, "out")
    card, recipe = (Path("out", name).read_text() for name in ("README.md", "mergekit_config.yml"))
    assert "base_model:\n- org/base\n- org/one\n- org/two\n" in card
    for name in ("base", "one", "two"):
        commit = hub.models[f"org/{name}"].refs["main"]
        assert f"[org/{name}@{commit[:10]}](https://huggingface.co/org/{name})" in card
        assert f"org/{name}@{commit}" in recipe
    for text in (card, recipe, Path("out/tallies.json").read_text()):
        assert str(tmp_path) not in text
        assert "snapshots" not in text


def test_without_a_network_the_cache_works(expected: Model, hub: Hub) -> None:
    line = assert_failed(tallies("merge", *REQUEST, "early", "--offline"), 2)
    assert "org/base: no such file or directory here, not in the cache" in line
    assert "hf download org/base" in line
    assert hub.requests == []
    printed("merge", *REQUEST, "out")
    n_requests = len(hub.requests)
    for text in (REQUEST, ("out/tallies.json",)):
        printed("merge", *text, "again", "--offline", "--overwrite")
        assert data_bytes(Path("again")) == data_bytes(Path("out"))
    assert len(hub.requests) == n_requests


def test_an_unreachable_hub_and_a_cache(
    expected: Model, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    printed("merge", *REQUEST, "out")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    printed("merge", *REQUEST, "again")
    assert data_bytes(Path("again")) == data_bytes(Path("out"))
    line = assert_failed(tallies("plan", "--method", "linear", "--model", "org/none"), 2)
    assert "127.0.0.1:9 cannot be reached" in line
    assert "download it first" in line


def test_the_donor_of_small_files_is_not_downloaded_whole(
    models: dict[str, Model], hub: Hub, home: Path
) -> None:
    recipe = {
        "merge_method": "linear",
        "models": [{"model": "org/one"}, {"model": "org/two"}],
        "files_from": "org/base",
    }
    merge(recipe, "out")
    assert (
        Path("out/tokenizer.json").read_bytes()
        == Path(next((home / "hub" / "models--org--base").rglob("tokenizer.json"))).read_bytes()
    )
    assert not list((home / "hub" / "models--org--base").rglob("*.safetensors"))


def test_a_bar_for_each_file(models: dict[str, Model], hub: Hub) -> None:
    run = subprocess.run(
        [*COMMAND, "merge", *REQUEST, "out", "--progress"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(f"org/{name}/model.safetensors: 100%" in run.stderr for name in models)
    run = subprocess.run(
        [*COMMAND, "merge", *REQUEST[:4], "--model", "org/two@v1", "again"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == ""


def test_a_connection_that_drops_is_taken_up(expected: Model, hub: Hub) -> None:
    hub.faults += [("/cdn/", "drop", 5000)] * 3
    printed("plan", *REQUEST)
    hub.faults += [("/cdn/", "drop", 5000)] * 4
    printed("merge", *REQUEST, "out")
    assert hub.faults == []
    assert_holds(Path("out"), expected)
