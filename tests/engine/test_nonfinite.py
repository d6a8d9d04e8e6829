"""Inputs that are not finite: found by job and input, and objected to by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tallies._core import Limits, Plan
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.tensors import TensorInfo
from tallies.engine.files import PlanFiles
from tallies.engine.nonfinite import (
    find_nonfinite,
    nonfinite_inputs,
    objection,
    objections,
)
from tests.support.checkpoints import Array, write

LIMITS = Limits(2, 1 << 16)


def stored(path: Path, values: Array) -> TensorInfo:
    return Checkpoint.open(write(path, {"w": values})).tensors["w"]


@pytest.fixture
def tensors(tmp_path: Path) -> list[TensorInfo]:
    good = np.arange(6, dtype=np.float32)
    bad = np.where(good < 2, good, np.float32("nan")).astype(np.float32)
    huge = np.where(good == 3, 1e39, good.astype(np.float64))
    values = [good, bad, huge]
    return [stored(tmp_path / str(i), one) for i, one in enumerate(values)]


def test_inputs_are_found_by_their_number(tensors: list[TensorInfo]) -> None:
    files = PlanFiles(Plan(True))
    files.plan.add_job(6, [files.place(one) for one in tensors], [])
    found = [
        (one.number, one.count, one.first)
        for one in nonfinite_inputs(files.plan, 0, len(tensors), LIMITS)
    ]
    assert found == [(1, 4, 2), (2, 1, 3)]


def test_objections_name_file_tensor_count_and_way_out(tensors: list[TensorInfo]) -> None:
    files = PlanFiles(Plan(True))
    files.plan.add_job(6, [files.place(one) for one in tensors], [])
    bad, huge = objections(files.plan, 0, tensors, LIMITS)
    assert bad == (
        f"{tensors[1].path}: tensor 'w' has 4 NaN or infinite values, the first at element 2, "
        "expected finite ones; repair the model, or pass --nonfinite propagate"
    )
    assert "1 NaN or infinite values in float32, the first at element 3" in huge


def test_one_stored_tensor(tensors: list[TensorInfo]) -> None:
    assert [find_nonfinite(one, LIMITS) for one in tensors] == [(0, 0), (4, 2), (1, 3)]


def test_an_objection_may_name_another_way_out_or_none(tensors: list[TensorInfo]) -> None:
    assert objection(tensors[1], 1, 0, "mend it").endswith("expected finite ones; mend it")
    assert objection(tensors[1], 1, 0, None).endswith("expected finite ones")
