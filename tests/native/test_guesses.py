"""Merges with guessed thresholds leave the bytes and numbers of merges with exact ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tallies import _core
from tests.support.guessing import Array, Candidate, Case, Tensor
from tests.support.hard_arrays import KINDS, array

N = 150_001
FEW, MANY = _core.Limits(1, 1 << 14), _core.Limits(2, 1 << 20)
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def tensor(kinds: tuple[str, ...], dtype: Any, seed: int = 0) -> Tensor:
    """Experts whose differences from a base of few values are arrays hard to select from."""
    rng = np.random.default_rng(seed)
    base = rng.choice(np.array([0, 0, 0, 0.5, -1], np.float32), N).astype(dtype)
    with np.errstate(all="ignore"):
        experts = [
            (base.astype(np.float32) + np.roll(array(kind), 7919 * e)).astype(dtype)
            for e, kind in enumerate(kinds)
        ]
    return Tensor(base, experts)


def smooth(n: int, dtype: Any, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    base = (rng.standard_normal(n) * 0.02).astype(dtype)
    experts = [
        (base.astype(np.float32) + rng.standard_normal(n).astype(np.float32) * 0.002 * (1 + e)).astype(dtype)
        for e in range(3)
    ]
    return Tensor(base, experts)


@pytest.mark.parametrize("locate", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_hard_arrays(kind: str, dtype: str, locate: bool) -> None:
    tensors = [tensor((kind, "smooth", kind), DTYPES[dtype])]
    for densities in ((0.2, 0.5, 0.7), (0.0, 1.0, 0.001)):
        for list_bytes in (0, 1, 4096):
            for limits in (FEW, MANY):
                case = Case(
                    tensors, [Candidate(densities)], locate=locate, limits=limits
                )
                case.guessed(list_bytes=list_bytes).require_equal(case.exact())


@pytest.mark.parametrize("locate", [False, True])
@pytest.mark.parametrize("by_tensor", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_models_in_files(tmp_path: Path, dtype: str, by_tensor: bool, locate: bool) -> None:
    tensors = [smooth(n, DTYPES[dtype], i) for i, n in enumerate((300_000, 5, 70_001, 64, 200_000))]
    candidates = [
        Candidate((0.2, 0.2, 0.2), by_majority=True),
        Candidate((0.5, 0.1, 0.9), (1.0, 0.5, -2.0), 0.7, -1),
        Candidate((0.2, 0.3, 0.4), (0.3, 0.3, 0.4), 1.5, 0),
    ]
    case = Case(
        tensors, candidates, by_tensor=by_tensor, locate=locate, limits=MANY, folder=tmp_path
    )
    expected = case.exact()
    for calls in (1, 2):
        case.guessed(calls=calls).require_equal(expected)
    case.guessed(calls=2, resumed=True).require_equal(expected)
