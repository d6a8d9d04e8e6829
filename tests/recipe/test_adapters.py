"""Adapters in the texts of models: ``base+adapter``, and the base of an adapter alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tallies import InputError, plan
from tallies.recipe.adapters import with_base
from tallies.recipe.config import MergeConfig
from tallies.recipe.places import Places
from tests.support import adapters
from tests.support.checkpoints import write

BASE = adapters.model()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: models ``base`` and ``other``, adapters that name various bases."""
    monkeypatch.chdir(tmp_path)
    for name in ("base", "other"):
        write(Path(name), BASE, config={"model_type": "llama"})
    for name, base in (
        ("plain", None),
        ("told", "base"),
        ("below/near", "../../base"),
        ("far", "org/llama"),
        ("gone", "/home/somebody/base"),
        ("second", "told"),
    ):
        adapter = adapters.lora(BASE, ["q_proj"], base_model_name_or_path=base)
        adapter.write(Path(name))
    adapters.kohya(BASE, ["q_proj"]).write(Path("style"))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "there", "pieces"),
    [
        ("m", (), ("m",)),
        ("m+a", (), ("m", "a")),
        ("m+a+b", (), ("m", "a", "b")),
        ("m+a", ("m+a",), ("m+a",)),
        ("m+a+b", ("m+a",), ("m+a", "b")),
        ("m+a+b", ("a+b",), ("m", "a+b")),
        ("m+a+b", ("m", "m+a"), ("m+a", "b")),
        ("c++/m+a", ("c++/m",), ("c++/m", "a")),
        ("c++/m", (), ("c++/m",)),
        ("+a", (), ("+a",)),
        ("m+", (), ("m+",)),
        ("hf://org/m@v1+org/a@v2", (), ("hf://org/m@v1", "org/a@v2")),
        ("~/m+a", (), ("~/m", "a")),
    ],
)
def test_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, there: Any, pieces: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in there:
        Path(name).mkdir(parents=True)
    assert Places.of().pieces(text) == pieces


def test_each_piece_has_its_place(here: Path) -> None:
    places = Places.of()
    assert places.identity("./base+told") == places.identity(f"{here}/base+{here}/told")
    assert places.relative_to("out", "base+told") == "../base+../told"
    assert places.relative_to("out", "base+org/adapter") == "../base+org/adapter"
    assert places.hub_model("org/base+org/adapter") is None


@pytest.mark.parametrize(
    ("text", "base", "found"),
    [
        ("base", None, "base"),
        ("base+plain", "other", "base+plain"),
        ("plain", "base", "base+plain"),
        ("plain/adapter_model.safetensors", "base", "base+plain/adapter_model.safetensors"),
        ("told", None, "base+told"),
        ("told/adapter_model.safetensors", None, "base+told/adapter_model.safetensors"),
        ("told", "./base", "./base+told"),
        ("told", "other", "base+told"),
        ("told+plain", None, "base+told+plain"),
        ("far", "base", "base+far"),
        ("gone", "other", "other+gone"),
        ("style.safetensors", "base", "base+style.safetensors"),
    ],
)
def test_the_base_of_an_adapter(here: Path, text: str, base: str | None, found: str) -> None:
    assert with_base(text, Places.of(), base) == found


def test_a_base_beside_the_adapter(here: Path) -> None:
    assert with_base("below/near", Places.of()) == "base+below/near"
    file = "below/near/adapter_model.safetensors"
    assert with_base(file, Places.of()) == f"base+{file}"
    Path("deep").mkdir()
    Path("deep/linked").symlink_to(here / "below")  # deep/linked/near/../../base is not deep/base
    found = with_base("deep/linked/near", Places.of())
    assert Places.of().identity(found) == Places.of().identity("base+below/near")


def test_the_revision_of_a_base_on_the_hub(here: Path) -> None:
    config = {**json.loads(Path("far/adapter_config.json").read_text()), "revision": "v2"}
    Path("far/adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"far: is an adapter on 'org/llama@v2'; .*MODEL\+far"):
        with_base("far", Places.of())


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("plain", r"plain: is an adapter that names no base.*MODEL\+plain.*merge_and_unload"),
        ("style.safetensors", r"is an adapter that names no base"),
        ("gone", r"gone: is an adapter on '/home/somebody/base', and nothing is there"),
        ("second", r"second: is an adapter on told, which is an adapter itself.*MODEL\+told\+sec"),
    ],
)
def test_no_base(here: Path, text: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        with_base(text, Places.of())


def test_a_model_beside_an_adapter_is_a_model(here: Path) -> None:
    adapters.lora(BASE).write(Path("both"))
    write(Path("both/model"), BASE)
    Path("both/model/model.safetensors").rename("both/model.safetensors")
    Path("both/config.json").write_text("{}")
    assert with_base("both", Places.of(), "base") == "both"


@pytest.mark.parametrize(
    "entry",
    [
        "base+plain+told",
        {"model": {"path": "base", "lora": ["plain", "told"]}},
        {"model": {"path": "base", "lora": ["plain", {"path": "told"}]}},
        {"model": {"model": {"path": "base"}, "lora": ["plain", "told"]}},
    ],
)
def test_spellings(here: Path, entry: Any) -> None:
    config = MergeConfig.load({"merge_method": "linear", "models": [entry, "other"]})
    assert config.models[0].model == "base+plain+told"


def test_a_request_with_its_bases(here: Path) -> None:
    recipe = {"merge_method": "ties", "base_model": "other", "models": ["plain", "told", "base"]}
    found = MergeConfig.load(recipe).pinned()
    assert [entry.model for entry in found.models] == ["other+plain", "base+told", "base"]
    (warning,) = found.experts()[1]
    assert warning.startswith("model 'told' is an adapter on 'base', and the base_model is 'other'")
    assert found.pinned().experts() == found.experts()


def test_the_base_with_an_adapter_is_another_model(here: Path) -> None:
    recipe = {"merge_method": "ties", "base_model": "base", "models": ["base+plain", "told"]}
    experts, warnings = MergeConfig.load(recipe).pinned().experts()
    assert [entry.model for entry in experts] == ["base+plain", "base+told"]
    assert warnings == []
    recipe["models"] = ["told", "base+told"]
    _, (warning,) = MergeConfig.load(recipe).pinned().experts()
    assert warning == "model 'base+told' is listed again and counts again"


def test_a_base_is_named_for_peft_as_it_was_written(here: Path) -> None:
    places = Places.of()
    # PEFT looks from the current directory, not from that of the adapter.
    for text in ("base", "./base", "org/name"):
        assert places.for_peft(here / "out", text) == text
    assert places.for_peft(here / "out", str(here / "base")) == "../base"


def set_base(adapter: str, base: str) -> None:
    """Make an adapter's configuration name another base."""
    file = Path(adapter, "adapter_config.json")
    config = {**json.loads(file.read_text()), "base_model_name_or_path": base}
    file.write_text(json.dumps(config))


@pytest.mark.parametrize("text", ["plain", "base+plain"])
@pytest.mark.parametrize("half", ["\ud800", "base\udfff"])
def test_half_a_character_in_the_name_of_a_base(here: Path, text: str, half: str) -> None:
    set_base("plain", half)
    with pytest.raises(InputError) as error:
        plan({"merge_method": "linear", "models": [text, "other"]})
    assert str(error.value).startswith(
        f"{here}/plain/adapter_config.json: base_model_name_or_path is {half!r}, which has half a"
    )


def test_whole_characters_of_two_halves_are_read(here: Path) -> None:
    Path("base").rename("\U0001f999")
    set_base("plain", "\U0001f999")  # json.dumps writes both halves as escapes
    assert with_base("plain", Places.of()) == "\U0001f999+plain"


def test_a_warning_shows_no_signs_of_strangers(here: Path) -> None:
    set_base("plain", "x\n\x1b[31mred")
    warnings = plan({"merge_method": "linear", "models": ["base+plain", "other"]}).warnings
    (warning,) = (one for one in warnings if "is an adapter on" in one)
    assert r"is an adapter on 'x\n\x1b[31mred', as its" in warning
    assert warning.isprintable()


@pytest.mark.parametrize("text", ["told", "empty+told"])
def test_the_adapter_whose_base_is_no_model_is_named(here: Path, text: str) -> None:
    Path("empty").mkdir()
    set_base("told", "empty")
    with pytest.raises(InputError, match="'empty' is the base_model_name_or_path in the ") as error:
        plan({"merge_method": "linear", "models": [text, "other"]})
    assert f"adapter_config.json of {here}/told; " in str(error.value)
    assert "MODEL+told" in str(error.value)


@pytest.mark.parametrize("text", ["loop", "base+loop"])
def test_a_link_that_leads_to_nothing(here: Path, text: str) -> None:
    Path("loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"loop: is a link that leads to nothing"):
        plan({"merge_method": "linear", "models": [text, "other"]})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('{"target_modules": ["q", "\\ud800"]}', r"target_modules is '\ud800', which has half a"),
        ('{"a": {"b": "\\uDFFFx"}}', r"a['b'] is '\udfffx', which has half a"),
        ('{"rank_pattern": {"\\udc00": 4}}', r"a key is '\udc00', which has half a"),
    ],
)
def test_half_a_character_elsewhere(here: Path, config: str, words: str) -> None:
    Path("plain/adapter_config.json").write_text(config)
    with pytest.raises(InputError) as error:
        with_base("plain", Places.of())
    assert words in str(error.value)
