"""The benchmark of patches runs, on small models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench import patch
from bench.support import checkpoints
from tests.support.tiny_llama import TINY


def test_rows_and_table(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    rows = patch.run(TINY, tmp_path, threads=2, repeat=2, base_steps=3)
    torch.set_num_threads(before)
    jobs = [str(row.case["job"]) for row in rows]
    sizes = [row for row, job in zip(rows, jobs, strict=True) if job.startswith("size, ")]
    assert len(sizes) == 2 * (len(patch._CHANGED) + len(patch._STEPS))
    timed = ["read both", "copy", "make", "apply", "apply 10", "apply in place"]
    assert jobs[len(sizes) :] == [*timed, "live, index_put_", "live"]
    for row in rows[len(sizes) :]:
        assert len(row.samples) == 2
        assert row.seconds > 0
    assert all("processor_ratio" in row.facts for row in rows if "ratio" in row.facts)
    smaller = [row.facts["times_smaller"] for row in sizes[: 2 * len(patch._CHANGED) : 2]]
    assert smaller == sorted(smaller, reverse=True)
    asked = [row.facts["at_least"] for row in rows if "at_least" in row.facts]
    assert asked == [60, 100, 12, 25, 5]
    lines = patch.show(rows).splitlines()
    assert len(lines) == 1 + len(rows)
    assert "AdamW, 64 steps" in patch.show(rows)


def test_the_entropy_of_changes(tmp_path: Path) -> None:
    old = checkpoints.ensure(tmp_path, TINY, n_experts=0)[0]
    assert patch.entropy(old, old) == 0
    new = patch.changed(old, tmp_path / "new", 0.05, 1)
    share = -(0.05 * np.log2(0.05) + 0.95 * np.log2(0.95))
    # A step up or down flips the last bit, and half as often another one before it.
    assert patch.entropy(old, new) == pytest.approx(share + 0.05 * 2, rel=0.05)
