"""The benchmark of operators on CUDA tensors runs and checks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import cuda_torch
from tests.support.cuda_place import Place
from tests.support.tiny_llama import TINY


@pytest.mark.parametrize("is_right", [True, False])
def test_the_benchmark_runs_and_checks(place: Place, is_right: bool) -> None:
    operators = place.operators if is_right else SimpleNamespace(kth_magnitude=lambda x, k: x[0])
    rows = cuda_torch.run(cuda_torch.Place(operators, place.device), 10_000, 1)
    if is_right:
        assert [row.samples[0] > 0 for row in rows] == [True] * 16
        return
    with pytest.raises(RuntimeError, match="kth_magnitude: not the result of the processor"):
        next(rows)


def test_the_benchmark_switches_tasks(tmp_path: Path) -> None:
    rows = list(cuda_torch.switches("cpu", tmp_path, 1, TINY))
    assert [row.case["kernel"] for row in rows] == [
        "task switch, preload=True",
        "task switch, preload='device'",
    ]
    assert all(row.n_bytes > 0 and row.samples for row in rows)
