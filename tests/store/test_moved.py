"""Stores and models that moved, and the places that ``store.json`` gives away."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallies
from tallies import InputError, Store, pack
from tallies.store import add, choose, consensus, remove
from tests.support.checkpoints import Model, assert_same_tensors, write
from tests.support.command import assert_failed
from tests.support.command import tallies as run
from tests.support.stores import assert_refused, edit, expert

SHARED, INDEPENDENT = "tall", "bitdelta"


@pytest.fixture
def home(models: Path) -> Path:
    """Base, experts and a store of ``a`` and ``b`` in one directory; ``c`` is packed later."""
    root = models.parent / "home"
    shutil.copytree(models, root)
    write(root / "c", expert(3))
    packed(root)
    return root


def packed(root: Path, codec: str = SHARED, out: str = "store", **parameters: Any) -> Path:
    tasks = {"a": root / "a", "b": root / "b"}
    pack(root / "base", tasks, root / out, codec=codec, overwrite=True, **parameters)
    return root / out


def contents(store: Path, base: Path | None = None) -> dict[str, Model]:
    opened = Store.open(store, base)
    return {task: opened.load(task) for task in opened.tasks}


def text(store: Path) -> str:
    return (store / "store.json").read_text()


def said(*arguments: object) -> str:
    ended = run(*arguments)
    assert ended.status == 0, ended.err
    return ended.out


def test_places_are_relative_to_the_store(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = json.loads(text(home / "store"))
    assert data["base"]["path"] == "../base"
    assert {name: task["source"] for name, task in data["tasks"].items()} == {
        "a": "../a",
        "b": "../b",
    }
    monkeypatch.chdir(home / "a")
    pack("../base", {"deep": Path.cwd()}, home / "stores/one")
    data = json.loads(text(home / "stores/one"))
    assert (data["base"]["path"], data["tasks"]["deep"]["source"]) == ("../../base", "../../a")


@pytest.mark.parametrize("codec", [SHARED, INDEPENDENT])
def test_all_moved_together(home: Path, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(packed(home, codec))
    moved = home.rename(home.parent / "there")
    store = moved / "store"
    for cwd, path in ((home.parent, Path("there/store")), (store, Path(".")), (moved, store)):
        monkeypatch.chdir(cwd)
        for task, tensors in contents(path).items():
            assert_same_tensors(tensors, before[task])
    add(store, "c", moved / "c")
    assert Store.open(store).tasks == ("a", "b", "c")
    remove(store, "a")
    assert Store.open(store).tasks == ("b", "c")
    assert str(home.parent) not in text(store)


def test_links_on_the_way(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.parent / "link").symlink_to(home)
    link = home.parent / "link"
    assert contents(link / "store").keys() == {"a", "b"}
    pack(link / "base", {"a": link / "a"}, link / "again")
    assert json.loads(text(home / "again"))["base"]["path"] == "../base"
    (home.parent / "elsewhere").mkdir()
    (home.parent / "elsewhere/store").symlink_to(home / "store")
    assert contents(home.parent / "elsewhere/store").keys() == {"a", "b"}
    # A base that is a link itself keeps its own name: the link moves with the store.
    (home / "base").rename(home.parent / "real base")
    (home / "base").symlink_to(home.parent / "real base")
    assert json.loads(text(packed(home)))["base"]["path"] == "../base"
    # ".." after a link leads to the parent of what the link means.
    (home.parent / "elsewhere/a").symlink_to(home / "a")
    monkeypatch.chdir(home.parent / "elsewhere")
    pack("a/../base", {"a": "a/../a"}, home / "odd")
    assert contents(home / "odd").keys() == {"a"}


@pytest.mark.parametrize("codec", [SHARED, INDEPENDENT])
def test_the_base_is_elsewhere(home: Path, codec: str) -> None:
    store = packed(home, codec)
    expected = contents(store)
    base = (home / "base").rename(home.parent / "base elsewhere")
    changes: list[Callable[[], object]] = [
        lambda: Store.open(store),
        lambda: add(store, "c", home / "c"),
    ]
    recorded = f"../base as seen from the store, which is {home / 'base'}, where nothing is"
    for change in changes:
        assert_refused(change, f"its base is recorded as {recorded}", "--base")
    line = assert_failed(run("unpack", store, "a", home / "out"), 2)
    assert "where nothing is; name the base (base=, --base)" in line
    said("unpack", store, "a", home / "out", "--base", base)
    said("add", store, f"--task=c={home / 'c'}", "--base", base)
    # The store remembers where the base is.
    found = contents(store)
    assert list(found) == ["a", "b", "c"]
    said("remove", store, "c")
    for task, tensors in contents(store).items():
        assert_same_tensors(tensors, expected[task])


def test_an_expert_is_elsewhere(home: Path) -> None:
    store, expected = home / "store", contents(home / "store")
    moved = (home / "a").rename(home.parent / "a elsewhere")
    line = assert_failed(run("add", store, f"--task=c={home / 'c'}"), 2)
    assert f"the expert of task 'a' is not at {home / 'a'} any more; say where it is" in line
    assert "--task a=DIR" in line
    said("add", store, f"--task=c={home / 'c'}", f"--task=a={moved}")
    said("remove", store, "c")
    for task, tensors in contents(store).items():
        assert_same_tensors(tensors, expected[task])
    moved = moved.rename(home.parent / "a further")
    # The task that goes needs no expert.
    remove(store, "a", tasks={"b": home / "b"})
    assert_same_tensors(contents(store)["b"], contents(packed_alone(home))["b"])


def packed_alone(home: Path) -> Path:
    pack(home / "base", {"b": home / "b"}, home / "alone")
    return home / "alone"


def test_choosing_and_counting_over_a_base_elsewhere(home: Path) -> None:
    store = packed(home, **{"lambda": [0.2, 0.4]})
    base = (home / "base").rename(home.parent / "base elsewhere")
    expert_a = (home / "a").rename(home.parent / "a elsewhere")
    said("choose", store, "a", "0.2", "--base", base, "--task", f"a={expert_a}")
    choose(store, "b", 0.4)
    assert Store.open(store).tasks == ("a", "b")
    assert consensus(store) == consensus(store, base=base)
    short = write(home / "short", {"bias": np.zeros(9, np.float32)})
    assert_refused(lambda: consensus(store, base=short), short, "is not the base of")
    add(store, "c", home / "c")


def test_verifying_against_base_and_experts(home: Path) -> None:
    store = home / "store"
    tallies.verify(store, base=home / "base", tasks={"a": home / "a"})
    said("verify", store, "--base", home / "base", "--task", f"b={home / 'b'}")
    assert_refused(lambda: tallies.verify(store, base=home / "c"), home / "c", "is not the base of")
    words = (home / "b", "is not the expert that task 'a'", "was packed from")
    assert_refused(lambda: tallies.verify(store, tasks={"a": home / "b"}), *words)
    assert_refused(lambda: tallies.verify(store, tasks={"q": home / "b"}), "task 'q' is not known")
    for options in ({"base": home / "base"}, {"tasks": {"a": home / "a"}}):
        assert_refused(lambda: tallies.verify(home / "a", **options), "is no store")  # noqa: B023


def test_an_expert_that_changed_is_not_packed_again(home: Path) -> None:
    store, before = home / "store", contents(home / "store")
    shutil.rmtree(home / "a")
    write(home / "a", expert(9))
    words = (home / "a", "is not the expert that task 'a' was packed from", "--task a=DIR")
    assert_refused(lambda: add(store, "c", home / "c"), *words)
    assert_refused(lambda: remove(store, "b"), *words)
    for task, tensors in contents(store).items():
        assert_same_tensors(tensors, before[task])


def test_a_base_that_changed_is_not_packed_again(home: Path) -> None:
    store = home / "store"
    other = write(home / "other", {**expert(1), "frozen": np.ones(3, np.float32)})
    words = (other, "is not the store's base: its fingerprint is", "base=, --base")
    assert_refused(lambda: add(store, "c", home / "c", base=other), *words)


@pytest.mark.parametrize("codec", [SHARED, INDEPENDENT, "lossless"])
def test_the_way_out_names_the_recorded_base(home: Path, codec: str) -> None:
    store = packed(home, codec)
    other = write(home / "other", {**expert(7), "frozen": np.ones(3, np.float32)})
    line = assert_failed(run("unpack", store, "a", home / "out", "--base", other), 2)
    assert "is not the store's base" in line
    place = home / "base"
    assert line.endswith(f"(recorded as ../base as seen from the store, which is {place})")
    shutil.rmtree(home / "base")
    other.rename(home / "base")
    line = assert_failed(run("unpack", store, "a", home / "out"), 2)
    assert line.endswith(
        "restore it, or name the base that the store was packed from (base=, --base)"
    )


@pytest.mark.parametrize("codec", [SHARED, INDEPENDENT])
def test_a_store_with_absolute_places(home: Path, codec: str) -> None:
    """Earlier versions wrote them. They are read, and become relative with the next change."""
    store = packed(home, codec)

    def make_absolute(data: dict[str, Any]) -> None:
        data["base"]["path"] = str(home / "base")
        for name, task in data["tasks"].items():
            task["source"] = str(home / name)

    edit(store, make_absolute)
    expected = contents(store)
    shutil.move(store, home.parent / "moved")
    store = home.parent / "moved"
    for task, tensors in contents(store).items():
        assert_same_tensors(tensors, expected[task])
    add(store, "c", home / "c")
    assert str(home.parent) not in text(store)
    assert json.loads(text(store))["tasks"]["a"]["source"] == "../home/a"
    assert contents(store).keys() == {"a", "b", "c"}


def test_places_of_tasks_that_a_store_lacks(home: Path) -> None:
    for change in (
        lambda: Store.open(home / "store", tasks={"q": home / "a"}),
        lambda: add(home / "store", "c", home / "c", tasks={"q": home / "a"}),
        lambda: remove(home / "store", "a", tasks={"q": home / "a"}),
    ):
        with pytest.raises(InputError, match=r"task 'q' is not known \(known: a, b\)"):
            change()
    opened = Store.open(home / "store", tasks={"a": home / "c"})
    assert opened.manifest.tasks["a"].source == "../c"
    line = assert_failed(run("add", home / "store", "--task=a=x", "--task=b=y"), 2)
    assert "found none that is not in" in line
    assert os.listdir(home / "store").count("store.json") == 1


def test_places_in_the_home_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    pack("~/base", {"a": "~/a"}, "~/again", codec=INDEPENDENT)
    data = json.loads(text(home / "again"))
    assert (data["base"]["path"], data["tasks"]["a"]["source"]) == ("~/base", "~/a")
    add("~/again", "b", "~/b")
    found = contents(Path("~/again"))
    assert list(found) == ["a", "b"]
    remove("~/again", "a")
    Store.open("~/again", "~/base").unpack("b", "~/out", files_from="~/a")
    assert tallies.verify("~/again")["kind"] == tallies.inspect("~/again")["kind"] == "store"
    said("add", "~/again", "--task=a=~/a")
    # A store elsewhere names the models in a home directory from there.
    pack(home / "base", {"a": home / "a"}, home.parent / "elsewhere")
    assert json.loads(text(home.parent / "elsewhere"))["base"]["path"] == "~/base"
    assert contents(home.parent / "elsewhere").keys() == {"a"}


def test_messages_name_the_task(home: Path) -> None:
    short = write(home / "short", {"bias": np.zeros(9, np.float32)})
    words = (f"task 'c': {short}: lacks tensor 'embed.weight'",)
    assert_refused(lambda: add(home / "store", "c", short), *words)
