"""Stores are named in a line; verify tells of a base that is gone, and add counts all tasks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import tallies
from tallies import Store
from tallies.patches.opened import Patch
from tests.support.checkpoints import write
from tests.support.command import tallies as run
from tests.support.stores import expert, packed


def test_objects_are_one_short_line(models: Path) -> None:
    store = Store.open(packed(models))
    assert repr(store) == f"<Store '{store.path}': tall, 2 tasks: 'a', 'b'>"
    made = tallies.make_patch(models / "base", models / "a", values="new")
    assert made.data is not None
    one = Patch.open(made.data)
    assert repr(one) == f"<Patch 'patch' from {made.old_fingerprint} to {made.new_fingerprint}>"


@pytest.mark.parametrize("codec", ["sparse", "lossless"])
def test_a_base_that_is_gone(models: Path, codec: str) -> None:
    path, base = models.parent / "store", models.parent / "own"
    shutil.copytree(models / "base", base)
    tallies.pack(base, {"a": models / "a"}, path, codec=codec)
    assert tallies.verify(path)["base_missing"] is None
    assert "warning" not in run("verify", path).out
    base.rename(models.parent / "moved")
    told = "its base is recorded as ../own as seen from the store"
    assert told in tallies.verify(path)["base_missing"]
    ended = run("verify", path)
    assert ended.status == 0
    assert told in ended.out.splitlines()[0]
    assert "name the base (base=, --base)" in ended.out.splitlines()[0]
    assert f"{path}: store is whole" in ended.out.splitlines()[1]
    assert "warning" not in run("verify", path, "--base", models.parent / "moved").out


@pytest.mark.parametrize("codec", ["sparse", "lossless"])
def test_a_task_that_was_added(models: Path, codec: str) -> None:
    path = models.parent / "store"
    tasks = {"a": models / "a", "b": models / "b"}
    assert tallies.pack(models / "base", tasks, path, codec=codec).store_tasks == []
    third = write(models.parent / "third", expert(3))
    ended = run("add", path, f"--task=c={third}")
    text = " ".join(ended.out.split())
    assert text.startswith(f"{codec}: 1 task added to 2 ")
    assert f"{path}: 3 tasks, " in text
    assert "of the new one" in text
    assert "times as much as" not in text
    report = tallies.store.add(path, "d", third)
    n_bytes = sum(one.stat().st_size for one in path.rglob("*.safetensors"))
    assert (report.store_tasks, report.store_bytes) == (["a", "b", "c", "d"], n_bytes)
    assert json.loads(report.to_json())["store_tasks"] == ["a", "b", "c", "d"]


def test_less_memory_than_buffers_take(models: Path) -> None:
    store = models.parent / "store"
    tasks = {"a": models / "a"}
    report = tallies.pack(models / "base", tasks, store, max_memory="1KiB", threads=1)
    assert "1.02 kB is less than the 524.29 kB of buffers that 1 thread" in report.warnings[-1]
