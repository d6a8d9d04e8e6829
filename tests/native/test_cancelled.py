"""Elements whose votes cancelled are listed, and written with the majority's sign at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tallies import _core
from tallies.engine.codes import BLEND_CODES, GATE_CODES, VOTE_CODES
from tallies.spec.rules import Blend, Gate, Vote
from tests.support.guessing import Candidate, Case, Tensor

FEW, MANY = _core.Limits(1, 1 << 14), _core.Limits(2, 1 << 20)
DTYPES = {
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float64": np.float64,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
}
ROOM = 1 << 30


def leaning(n: int, lean: float, dtype: Any, seed: int, n_experts: int = 3) -> Tensor:
    """Experts that differ from the base by few values, and more often up than down."""
    rng = np.random.default_rng(seed)
    base = rng.integers(-8, 9, n) / 8
    steps = rng.integers(-3, 4, (n_experts, n))
    steps += np.where(rng.random((n_experts, n)) < abs(lean), int(np.sign(lean)), 0)
    return Tensor(base.astype(dtype), [(base + row / 8).astype(dtype) for row in steps])


def turning(dtype: Any) -> list[Tensor]:
    """Tensors the last and largest of which turns the majority."""
    sizes = ((90_001, 0.2), (5, 0.0), (70_001, 0.0), (64, 0.5), (200_000, -0.4))
    return [leaning(n, lean, dtype, seed) for seed, (n, lean) in enumerate(sizes)]


def requires_mending(case: Case, **options: Any) -> None:
    """Require the merge of one without lists, and that lists did all of the work."""
    expected = case.exact()
    assert case.n_mended == 0
    for way in (case.exact, case.guessed):
        case.n_mended = case.n_left = 0
        way(votes=ROOM, **options).require_equal(expected)
        assert case.n_mended > 0
        assert case.n_left == 0


@pytest.mark.parametrize("locate", [False, True])
@pytest.mark.parametrize("by_tensor", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_models_in_files(tmp_path: Path, dtype: str, by_tensor: bool, locate: bool) -> None:
    candidates = [
        Candidate((0.3, 0.3, 0.3), by_majority=True),
        Candidate((1.0, 1.0, 1.0), by_majority=True, scale=0.5),
        Candidate((0.5, 0.9, 0.6), (1.0, 0.5, -2.0), 0.7, by_majority=True),
        Candidate((0.2, 0.3, 0.4), zero_sign=-1),
    ]
    for limits in (FEW, MANY):
        case = Case(
            turning(DTYPES[dtype]),
            candidates,
            by_tensor=by_tensor,
            locate=locate,
            limits=limits,
            folder=tmp_path,
        )
        requires_mending(case)


@pytest.mark.parametrize("list_bytes", [0, 1, 300, 5000, 30_000, 200_000])
def test_lists_that_have_no_room(list_bytes: int) -> None:
    """Tiles without a list are left to another combine."""
    for limits in (FEW, MANY):
        case = Case(
            turning(np.float32), [Candidate((0.4, 0.5, 0.6), by_majority=True)], limits=limits
        )
        expected = case.exact()
        for way in (case.exact, case.guessed):
            case.n_mended = case.n_left = 0
            way(votes=list_bytes).require_equal(expected)
            assert (case.n_mended == 0) >= (list_bytes <= 1)
            assert case.n_left > 0 or list_bytes > 5000


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("list_bytes", [1, 400_000, 1 << 22])
def test_listed_elements_that_are_repaired(list_bytes: int, calls: int) -> None:
    """Thresholds that were guessed wrong change which votes cancel."""
    rng = np.random.default_rng(3)
    n = 400_000
    base = rng.integers(-8, 9, n).astype(np.float32)
    # Pairs of opposite values of every size, around the thresholds too.
    one, two = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
    opposite = rng.random(n) < 0.5
    experts = [np.rint(x * 2**16) / np.float32(2**16) for x in (one, np.where(opposite, -one, two))]
    case = Case(
        [Tensor(base, [base + x for x in experts]), leaning(90_000, 0.1, np.float32, 1, 2)],
        [
            Candidate((0.3, 0.3), by_majority=True),
            Candidate((0.2, 0.21), by_majority=True),
            Candidate((0.4, 0.4), by_majority=True, scale=0.3),
        ],
        limits=FEW,
    )
    expected = case.exact()
    case.guessed(list_bytes=list_bytes, calls=calls, votes=ROOM).require_equal(expected)
    assert case.guesses is not None
    assert case.n_mended > 0
    assert case.guesses.n_repaired > 0 or list_bytes < 1 << 22
    case.guessed(list_bytes=list_bytes, votes=20_000).require_equal(expected)


def test_candidates_that_share_a_delta() -> None:
    candidates = [
        Candidate((0.5,) * 3, scale=scale, by_majority=True) for scale in (0.3, 0.6, 0.9, 1.2)
    ]
    requires_mending(Case(turning(ml_dtypes.bfloat16), candidates, limits=FEW))


@pytest.mark.parametrize("blend", [Blend.SUM_OF_AGREEING, Blend.LARGEST_AGREEING])
@pytest.mark.parametrize("vote", [Vote.SUM, Vote.COUNT])
def test_other_rules(vote: Vote, blend: Blend) -> None:
    codes = (GATE_CODES[Gate.MAGNITUDE], VOTE_CODES[vote], BLEND_CODES[blend])
    rule = dict(zip(("gate", "vote", "blend"), codes, strict=True))
    candidate = Candidate((0.5,) * 3, by_majority=True)
    requires_mending(Case(turning(np.float16), [candidate], limits=MANY, rule=rule))


def test_bands() -> None:
    candidate = Candidate((0.5,) * 3, by_majority=True, outliers=(0.01, 0.02, 0.0))
    requires_mending(Case(turning(np.float32), [candidate], limits=FEW))


def test_rows_with_scales() -> None:
    scales = np.full(1, 2, np.float32)
    tensors = [
        Tensor(one.base, [x / np.float32(2) for x in one.experts], out=np.float16, scales=scales)
        for one in turning(np.float32)[::2]
    ]
    requires_mending(Case(tensors, [Candidate((0.5,) * 3, by_majority=True)], limits=FEW))


def test_values_that_are_not_finite_are_combined_again() -> None:
    """The other sign may overflow where the one at hand does not."""
    tensors = turning(np.float16)
    for one in tensors:
        one.experts[0][:: one.base.size // 4 + 1] = np.inf
        one.experts[1][3:4] = np.nan
    case = Case(tensors, [Candidate((0.5,) * 3, by_majority=True, scale=30_000)], limits=FEW)
    expected = case.exact()
    for way in (case.exact, case.guessed):
        way(votes=ROOM).require_equal(expected)
    assert case.n_left > 0


def test_arguments_that_are_refused() -> None:
    case = Case([leaning(1000, 0, np.float32, 0)], [Candidate((0.5,) * 3)], limits=FEW)
    case.exact()
    plan = _core.Plan(True)
    cancelled = _core.CancelledVotes(list_bytes=1000)
    one = case.tensors[0].base
    place = (-1, one.ctypes.data, 0)
    plan.add_job(1000, [place, place], [])
    for job, words in ((1, "job"), (0, "row"), (-1, "job")):
        with pytest.raises(ValueError, match=words):
            plan.mend(cancelled=cancelled, wrong=[(job, 0, [])], limits=FEW)
    out = np.zeros(1000, np.float32)
    plan.add_job(1000, [place, place], [(-1, out.ctypes.data, 0)])
    for ranges in ([(0, 1001)], [(1001, 0)], [(0, 20), (10, 20)], [(1000, 1 << 63)]):
        with pytest.raises(ValueError, match="ranges"):
            plan.mend(cancelled=cancelled, wrong=[(1, 0, ranges)], limits=FEW)
    (mended,) = plan.mend(
        cancelled=cancelled, wrong=[(1, 0, [(64, 64), (0, 64), (960, 40)])], limits=FEW
    )
    assert mended.left == [(0, 128), (960, 40)]
    assert (mended.n_listed, mended.n_mended, mended.output) == (0, 0, [0] * 8)
