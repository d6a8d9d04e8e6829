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
        (
            base.astype(np.float32) + rng.standard_normal(n).astype(np.float32) * 0.002 * (1 + e)
        ).astype(dtype)
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
                case = Case(tensors, [Candidate(densities)], locate=locate, limits=limits)
                case.guessed(list_bytes=list_bytes).require_equal(case.exact())


@pytest.mark.parametrize("locate", [False, True])
@pytest.mark.parametrize("by_tensor", [False, True])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_models_in_files(
    tmp_path: Path, dtype: str, joined: bool, by_tensor: bool, locate: bool
) -> None:
    tensors = [smooth(n, DTYPES[dtype], i) for i, n in enumerate((300_000, 5, 70_001, 64, 200_000))]
    candidates = [
        Candidate((0.2, 0.2, 0.2), by_majority=True),
        Candidate((0.5, 0.1, 0.9), (1.0, 0.5, -2.0), 0.7, -1),
        Candidate((0.2, 0.3, 0.4), (0.3, 0.3, 0.4), 1.5, 0),
    ]
    case = Case(
        tensors,
        candidates,
        by_tensor=by_tensor,
        locate=locate,
        limits=MANY,
        folder=tmp_path,
        joined=joined,
    )
    expected = case.exact()
    for calls in (1, 2):
        case.guessed(calls=calls).require_equal(expected)
    case.guessed(calls=2, resumed=True).require_equal(expected)


def sampled(n: int) -> Array:
    """The elements that a sample of a tensor looks at, about."""
    wanted = max(n // 64, 1 << 14)
    every = n // (wanted // 1024)
    seen = np.zeros(n, bool)
    for first in range(every // 2, n, every):
        seen[first // 64 * 64 :][:1024] = True
    return seen


@pytest.mark.parametrize("locate", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("large", ["seen", "unseen", "at the end"])
def test_samples_that_see_another_tensor(large: str, dtype: str, locate: bool) -> None:
    """The bracket misses the threshold, and further rounds find it."""
    n = 300_000
    one = smooth(n, DTYPES[dtype])
    seen = sampled(n + 70_000)[:n]
    where = {"seen": seen, "unseen": ~seen, "at the end": np.arange(n) > n * 0.9}[large]
    with np.errstate(all="ignore"):
        experts = [np.where(where, x * np.float32(50), x).astype(x.dtype) for x in one.experts]
    for density in (0.03, 0.4):
        case = Case(
            [Tensor(one.base, experts), smooth(70_000, DTYPES[dtype], 3)],
            [Candidate((density,) * 3)],
            locate=locate,
            limits=MANY,
        )
        case.guessed().require_equal(case.exact())
        assert case.guesses is not None
        if large == "seen":
            assert case.guesses.n_rounds > 0
            assert case.n_again == 370_000


def test_one_tensor_holds_all_large_values() -> None:
    tensors = [smooth(90_000, np.float32, i) for i in range(3)]
    tensors[1].experts = [x * np.float32(1000) for x in tensors[1].experts]
    for density in (0.2, 1 / 3, 0.6):
        case = Case(tensors, [Candidate((density,) * 3)], limits=FEW)
        case.guessed().require_equal(case.exact())


@pytest.mark.parametrize("list_bytes", [1, 2000, 20_000, 1 << 21])
def test_lists_that_have_no_room(list_bytes: int) -> None:
    """Elements are combined from lists as far as these go, else all of them again."""
    case = Case([smooth(400_000, np.float32)], [Candidate((0.2, 0.3, 0.4))], limits=FEW)
    case.guessed(list_bytes=list_bytes).require_equal(case.exact())
    assert case.guesses is not None
    if list_bytes == 1:
        assert case.n_again == 400_000
    if list_bytes == 1 << 21:
        assert case.n_again == 0
        assert 0 < case.guesses.n_repaired < case.guesses.n_listed < 100_000


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_large_models_of_few_values_need_no_list(dtype: str) -> None:
    """Many elements share a magnitude: a bracket of one proves the guess."""
    rng = np.random.default_rng(8)
    base = np.full(1 << 20, 1, np.float32)
    steps = rng.integers(-40, 41, base.size).astype(np.float32) / 128
    one = Tensor(base.astype(DTYPES[dtype]), [(base + steps).astype(DTYPES[dtype])] * 2)
    case = Case([one], [Candidate((0.203, 0.507))], limits=MANY)
    case.guessed().require_equal(case.exact())
    assert case.guesses is not None
    assert (case.n_again, case.guesses.n_repaired) == (0, 0)


def test_wrong_cut_offs_repeat_the_tiles_between() -> None:
    rng = np.random.default_rng(8)
    base = np.zeros(1 << 20, np.float32)
    experts = [rng.choice(np.array([1, -1, 2, -3], np.float32), base.size) for _ in range(2)]
    case = Case([Tensor(base, experts)], [Candidate((0.7, 0.3))], locate=True, limits=FEW)
    case.guessed().require_equal(case.exact())
    assert 0 < case.n_again < base.size // 4


@pytest.mark.parametrize("locate", [False, True])
def test_types_that_are_decoded(locate: bool) -> None:
    """Operands of several types, of scaled ones, and a result of another."""
    n = 200_000
    one = smooth(n, np.float32)
    scales = np.linspace(0.5, 2, n // 1000, dtype=np.float32)
    eights = [(x * np.float32(30)).astype(ml_dtypes.float8_e4m3fn) for x in one.experts]
    tensors = [
        Tensor(one.base, [x.astype(ml_dtypes.bfloat16) for x in one.experts], ml_dtypes.bfloat16),
        Tensor(one.base.astype(np.float16), one.experts, ml_dtypes.float8_e5m2),
        Tensor(one.base.astype(ml_dtypes.bfloat16), eights, None, scales),
    ]
    for by_tensor in (False, True):
        case = Case(
            tensors,
            [Candidate((0.2, 0.3, 0.4)), Candidate((0.5, 0.3, 0.1), (0.1, 1, 3))],
            locate=locate,
            by_tensor=by_tensor,
            limits=MANY,
        )
        case.guessed().require_equal(case.exact())


def test_overflow_that_a_guess_causes() -> None:
    """Results beyond the type are found where they are, whatever the guess."""
    one = smooth(200_000, np.float16)
    for scale in (1.0, 1e7, np.inf):
        case = Case([one], [Candidate((0.2, 0.5, 0.9), scale=scale)], limits=FEW)
        case.guessed().require_equal(case.exact())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["smooth", "few values", "any bits", "two values"])
def test_bands(kind: str, dtype: str) -> None:
    """Floors and ceilings are guessed alike, and both repaired."""
    tensors = [tensor((kind, "smooth", kind), DTYPES[dtype]), smooth(90_000, DTYPES[dtype])]
    band = Candidate((0.5, 0.3, 0.8), outliers=(0.01, 0.1, 0.0))
    for list_bytes in (1, 1 << 21):
        case = Case(tensors, [band], by_tensor=True, locate=True, limits=MANY)
        case.guessed(list_bytes=list_bytes).require_equal(case.exact())
