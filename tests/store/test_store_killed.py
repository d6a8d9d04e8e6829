"""A packing that is killed leaves the old store or the new one."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import Store
from tests.support.checkpoints import (
    write,
)
from tests.support.command import tree
from tests.support.killable import Killer
from tests.support.stores import loaded, packed


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    process = Killer("pack")
    yield process
    process.close()


def request(models: Path, **options: Any) -> dict[str, Any]:
    """The arguments of a packing, as JSON has them."""
    tasks = {name: str(models / name) for name in ("a", "b")}
    out = str(models.parent / "store")
    return {"base": str(models / "base"), "tasks": tasks, "out": out, "threads": 1, **options}


@pytest.mark.parametrize("old", [False, True])
def test_killed_at_every_moment(killer: Killer, models: Path, old: bool) -> None:
    store = models.parent / "store"
    new = tree(packed(models, "emr", threads=1))
    shutil.rmtree(store)
    before = tree(packed(models, "candidates")) if old else {}
    asked = request(models, codec="emr", overwrite=old)
    states = []
    for moment in range(1000):
        answer = killer.run(die_at=moment, **asked)
        if not answer["killed"]:
            assert "error" not in answer
            break
        found = tree(store) if store.exists() else {}
        assert found in (before, new)
        states.append(found == new)
        if found == new and old:
            shutil.rmtree(store)
            packed(models, "candidates")
        elif found == new:
            shutil.rmtree(store)
    # The remains of the killed runs are gone, and the store is complete.
    assert tree(store) == new
    assert sorted(os.listdir(models.parent)) == ["models", "store"]
    # Moments are calls that change files; native code, which reads the models, adds none.
    assert len(states) > 15
    assert states == sorted(states)
    loaded(Store.open(store))


def test_killed_at_random_times(killer: Killer, models: Path) -> None:
    rng = np.random.default_rng(3)
    big = models.parent / "big"
    for name in ("base", "a", "b"):
        tensors = {f"t{i}": rng.standard_normal(300_000).astype(np.float32) for i in range(4)}
        write(big / name, tensors)
    asked = request(big, overwrite=True, max_memory="64KiB", out=str(models.parent / "store"))
    seconds = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        assert not killer.run(**asked)["killed"]
        seconds = min(seconds, time.perf_counter() - start)
    store = models.parent / "store"
    new = tree(store)
    old = tree(packed(models, overwrite=True))
    n_killed = 0
    for i in range(12):
        n_killed += killer.run(die_after=random.Random(i).uniform(0, seconds), **asked)["killed"]
        assert tree(store) in (old, new)
    assert n_killed > 0
    assert not killer.run(**asked)["killed"]
    assert tree(store) == new
    assert sorted(os.listdir(models.parent)) == ["big", "models", "store"]
