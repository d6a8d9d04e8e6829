"""Tensors that tasks have alike are stored once, whatever the tensors beside them are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tallies import Store, pack
from tallies.inspection.stored_tensor import stored_tensor
from tallies.inspection.stores import verify_store
from tallies.store import add, remove
from tests.support.checkpoints import Model, assert_holds, assert_same_tensors, read, write
from tests.support.stores import assert_refused

NAMES = ("x", "x::0", "x::0::1", "y::blocks", "::blocks", "z")


def model(seed: int, same: int) -> Model:
    """A tensor of each name, of which some are the same with every seed."""
    return {
        name: np.random.default_rng([i, 0 if i in (same, same + 1) else seed]).random(40 + i)
        for i, name in enumerate(NAMES)
    }


@pytest.mark.parametrize("same", range(len(NAMES)))
@pytest.mark.parametrize("has_base", [False, True])
def test_names_that_begin_with_that_of_a_stored_tensor(
    tmp_path: Path, same: int, has_base: bool
) -> None:
    base = write(tmp_path / "base", model(99, -9)) if has_base else None
    experts = {task: model(seed, same) for seed, task in enumerate("abcd", 1)}
    places = {task: write(tmp_path / task, expert) for task, expert in experts.items()}
    store = tmp_path / "store"

    def check(*tasks: str) -> None:
        found = Store.open(store)
        for task in tasks:
            assert_same_tensors(found.load(task), read(places[task]))
            for name in NAMES:
                assert_same_tensors(found.load(task, tensors=[name]), {name: experts[task][name]})
        found.unpack(tasks[-1], tmp_path / "out", overwrite=True)
        assert_holds(tmp_path / "out", experts[tasks[-1]])
        verify_store(store, tasks={task: places[task] for task in tasks})

    pack(base, {"a": places["a"], "b": places["b"]}, store, codec="lossless")
    for name in NAMES:
        found = stored_tensor(store, name)["tasks"]["b"]["entries"]
        assert found.keys() == {name, f"{name}::blocks"}
    check("a", "b")
    assert Store.open(store).manifest.tasks["b"].borrowed.keys() == {*NAMES[same : same + 2]}
    add(store, "c", places["c"])
    check("a", "b", "c")
    remove(store, "a")
    check("b", "c")
    add(store, "d", places["d"])
    remove(store, "b")
    check("c", "d")


def test_a_name_that_a_tensor_of_an_earlier_task_needs(tmp_path: Path) -> None:
    x = np.arange(9.0)
    write(tmp_path / "a", {"x": x})
    write(tmp_path / "b", {"x": x, "x::blocks": x + 1})
    tasks = {"a": tmp_path / "a", "b": tmp_path / "b"}
    assert_refused(lambda: pack(None, tasks, tmp_path / "store", codec="lossless"), "'x::blocks'")
    assert not (tmp_path / "store").exists()
    pack(None, {"a": tmp_path / "a"}, tmp_path / "store", codec="lossless")
    assert_refused(lambda: add(tmp_path / "store", "b", tmp_path / "b"), "'x::blocks'")
    assert_same_tensors(Store.open(tmp_path / "store").load("a"), {"x": x})
