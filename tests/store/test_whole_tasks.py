"""A task whose expert lacks tensors of the base, or has others, is not the expert."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tallies
from tests.support.checkpoints import Model, write

W = np.arange(6, dtype=np.float32).reshape(2, 3)
EXPERTS: dict[str, tuple[Model, tuple[int, int]]] = {
    "whole": ({"w": W + 1, "head": W}, (0, 0)),
    "another head": ({"w": W + 1, "classifier": W}, (1, 1)),
    "a buffer of an older version": ({"w": W + 1, "head": W, "rotary_emb.inv_freq": W[0]}, (0, 1)),
}


@pytest.mark.parametrize(("expert", "counts"), EXPERTS.values(), ids=EXPERTS)
def test_bit_for_bit_is_said_of_whole_experts(
    expert: Model, counts: tuple[int, int], tmp_path: Path
) -> None:
    base = write(tmp_path / "base", {"w": W, "head": W})
    path = write(tmp_path / "expert", expert)
    store = tmp_path / "store"
    rules = {"missing": "base", "extra": "drop"}
    report = tallies.pack(base, {"a": path}, store, codec="sparse", density="exact", **rules)
    task = tallies.Store.open(store).manifest.tasks["a"]
    assert (task.n_missing, task.n_extra) == counts
    is_whole = counts == (0, 0)
    assert any("another model" in text for text in report.warnings) is not is_whole
    unpacked = tallies.Store.open(store).unpack("a", tmp_path / "again")
    assert unpacked.exact is is_whole
    assert ("bit for bit" in str(unpacked)) is is_whole
    tallies.verify(store, tasks={"a": path})
