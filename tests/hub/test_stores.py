"""Base and experts of a store on the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tallies
from tallies import InputError, Store
from tallies.store import add, remove
from tests.support.checkpoints import Model, assert_same_tensors, write
from tests.support.hub import Hub

EXACT = {"codec": "sparse", "density": "exact"}


def text(store: Path) -> str:
    return (store / "store.json").read_text()


@pytest.mark.parametrize("codec", ["sparse", "tall"])
def test_packed_opened_and_changed(hub: Hub, models: dict[str, Model], codec: str) -> None:
    tallies.pack("org/base", {"one": "org/one", "two": "org/two@v1"}, "store", codec=codec)
    data = json.loads(text(Path("store")))
    commits = {name: hub.models[f"org/{name}"].refs["v1"] for name in models}
    assert data["base"]["path"] == f"hf://org/base@{commits['base']}"
    assert {name: task["source"] for name, task in data["tasks"].items()} == {
        name: f"hf://org/{name}@{commits[name]}" for name in ("one", "two")
    }
    store = Store.open("store")
    assert store.load("one").keys() == models["one"].keys()
    remove("store", "two")
    add("store", "again", "org/two")
    assert Store.open("store", "org/base").tasks == ("one", "again")


def test_exact_with_the_files_of_the_task(hub: Hub, models: dict[str, Model]) -> None:
    tallies.pack("org/base", {"one": "org/one"}, "store", **EXACT)
    report = Store.open("store").unpack("one", "out", files_from="org/two")
    assert report.exact
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tallies.json",
        "tokenizer.json",
    ]
    assert_same_tensors(Store.open("store").load("one"), models["one"])


def test_nothing_is_downloaded_for_models_that_do_not_fit(
    hub: Hub, models: dict[str, Model], tmp_path: Path
) -> None:
    short = {name: array for name, array in models["one"].items() if "norm" not in name}
    hub.directory("org/short", write(tmp_path / "published/short", short), "main")
    with pytest.raises(InputError, match=r"task 's': org/short.*lacks tensor 'norm.weight'"):
        tallies.pack("org/base", {"s": "org/short"}, "store")
    assert not Path("store").exists()
