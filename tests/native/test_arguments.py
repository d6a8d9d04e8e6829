"""The binding checks sizes, indices and codes once a pass: ValueError with found and expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tallies import _core
from tallies.spec.dtypes import DTYPE_CODES

N = 2048
LIMITS = _core.Limits(1, 1 << 16)
F32 = DTYPE_CODES["F32"]
ARRAYS: list[npt.NDArray[np.float32]] = [
    np.linspace(-1, 1, N, dtype=np.float32) * (i + 1) for i in range(4)
]
OUT = np.empty((3, N), np.float32)
PLACES = [(-1, x.ctypes.data, F32) for x in ARRAYS]
OUTPUTS = [(-1, row.ctypes.data, F32) for row in OUT]


def plan(n_outputs: int = 0, *, has_base: bool = True, apart: bool = True) -> _core.Plan:
    """A plan of one tensor with two experts."""
    made = _core.Plan(has_base)
    made.add_job(N, PLACES[: 2 + has_base], OUTPUTS[:n_outputs], apart=apart)
    return made


def candidate(**changes: Any) -> _core.Candidate:
    return _core.Candidate(
        **{"weights": [1.0, 1.0], "floors": [-1, -1], "cutoffs": [N, N], **changes}
    )


def combine(
    *,
    codes: tuple[int, int, int] = (0, 0, 0),
    candidates: int = 1,
    of: _core.Plan | None = None,
    task: dict[str, Any] | None = None,
    **changes: Any,
) -> list[_core.CombineResult]:
    gate, vote, blend = codes
    made = _core.CombineTask(
        **{"job": 0, "candidates": [candidate(**changes)] * candidates, **(task or {})}
    )
    return (of or plan()).combine(tasks=[made], gate=gate, vote=vote, blend=blend, limits=LIMITS)


def draw(chance: int = 1) -> _core.Draw:
    return _core.Draw(key=1, chance=chance)


def select(of: _core.Plan | None = None, **changes: Any) -> object:
    how: dict[str, Any] = {"locate": False, "limits": LIMITS}
    unit = {"jobs": [0], "ranks": [1, 1]}
    for name in ("jobs", "ranks", "share"):
        if name in changes:
            unit[name] = changes.pop(name)
    return (of or plan()).select(units=[_core.Unit(**unit)], **{**how, **changes})  # type: ignore[arg-type]


def pack(n_outputs: int = 3, **changes: Any) -> object:
    task = _core.PackTask(
        job=changes.pop("job", 0),
        shared=candidate(**changes.pop("candidate", {})),
        lambdas=changes.pop("lambdas", ()),
    )
    how: dict[str, Any] = {
        "shared": (0, 0, 0),
        "mask": 1,
        "with_sums": False,
        "stop_at_overflow": False,
        "limits": LIMITS,
    }
    made = _core.Plan(True)
    places = [OUTPUTS[0], *((-1, row.ctypes.data, -1) for row in OUT[1:])]
    made.add_job(N, PLACES[:3], places[:n_outputs], apart=True)
    return _core.pack(plan=made, tasks=[task], **{**how, **changes})


def gram(**changes: Any) -> object:
    task = _core.GramTask(job=changes.pop("job", 0), row_length=changes.pop("row_length", N))
    how = {"deltas": True, "with_magnitudes": False, "limits": LIMITS}
    return changes.pop("of", plan()).gram(tasks=[task], **{**how, **changes})


def slice_of(**numbers: int) -> _core.Slice:
    return _core.Slice(**{"job": 0, **numbers})  # type: ignore[arg-type]


def stage_sums(**changes: Any) -> object:
    task = _core.StageTask(**{"job": 0, "stages": [draw(), draw()], **changes})
    return plan().stage_sums(tasks=[task], limits=LIMITS)


BY_RANK = _core.DropByRank(key=1, low=0.5, step=0.0)
SCORE = (0.0, 1.0, 1.0, 0.5, 1.0)

BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: _core.Limits(0, 1 << 20), "n_threads: found 0, expected 1 or more"),
    (lambda: _core.Limits(-1, 1 << 20), "n_threads: found -1, expected 1 or more"),
    (lambda: _core.Limits(1, 0), "buffer_bytes: found 0, expected 1 or more"),
    (lambda: _core.Limits(1, 1, 0), "tile_bytes: found 0, expected 1 or more"),
    (lambda: combine(task={"job": 1}), "job: found 1, expected 0 to 0"),
    (lambda: combine(task={"job": -1}), "job: found -1, expected 0 or more"),
    (lambda: combine(of=_core.Plan(True)), "job: found 0, expected none"),
    (lambda: combine(weights=[1.0]), "weights: found 1, expected 2, one for each expert"),
    (lambda: combine(weights=[]), "weights: found 0, expected 2, one for each expert"),
    (
        lambda: combine(weights=[1.0] * 4, row_length=N // 4),
        "weights: found 4, expected 8, one for each row and expert",
    ),
    (lambda: combine(floors=[0]), "floors: found 1, expected 2, one for each expert"),
    (lambda: combine(cutoffs=[0] * 3), "cutoffs: found 3, expected 2, one for each expert"),
    (lambda: combine(zero_sign=2), "zero_sign: found 2, expected -1 to 1"),
    (lambda: combine(majority=1), "majority: found 1, expected -1 to 0"),
    (lambda: combine(codes=(9, 0, 0)), "this rule is not compiled"),
    (lambda: combine(codes=(0, -1, 0)), "this rule is not compiled"),
    (lambda: combine(codes=(256, 0, 0)), "this rule is not compiled"),
    (lambda: combine(codes=(0, 3, 2)), "vote: found signs that are given, expected a vote of"),
    (lambda: combine(codes=(4, 0, 0)), "draws: found none, expected one for each expert where"),
    (lambda: combine(task={"draws": [draw()] * 2}), "draws: found some, expected one for each"),
    (
        lambda: combine(codes=(4, 0, 0), task={"draws": [draw()]}),
        "draws: found 1, expected 2, one for each expert",
    ),
    (
        lambda: combine(codes=(4, 0, 0), task={"draws": [draw((1 << 30) + 1), draw()]}),
        "chance: found 1073741825, expected 0 to 1073741824",
    ),
    (lambda: combine(codes=(3, 0, 8)), "scores: found none, expected one for each expert where"),
    (
        lambda: combine(codes=(3, 0, 8), task={"scores": [SCORE]}),
        "scores: found 1, expected 2, one for each expert",
    ),
    (
        lambda: combine(codes=(3, 0, 8), task={"scores": [SCORE] * 2, "agreement": 2}),
        "agreement: found 2, expected 0 to 1",
    ),
    (
        lambda: combine(task={"stages": [draw()]}),
        "stages: found 1, expected 2, one for each expert",
    ),
    (
        lambda: combine(task={"stages": [BY_RANK] * 2}),
        "row_length: found 0, expected the elements of a row, which these stages need",
    ),
    (
        lambda: combine(task={"stages": [BY_RANK] * 2, "row_length": 100}),
        "row_length: found 100, expected a divisor of 2048 elements",
    ),
    (
        lambda: combine(task={"stages": [draw()] * 2, "draws": [draw()] * 2}),
        "stages, draws and scores: found several of these, expected one",
    ),
    (
        lambda: combine(task={"lambdas": [1.0]}),
        "lambdas: found 1, expected 2, one for each expert",
    ),
    (
        lambda: combine(of=plan(has_base=False), task={"lambdas": [1.0, 1.0]}),
        "has_base: found False, expected a plan with a base",
    ),
    (lambda: combine(candidates=2), "candidates: found 2, expected 1, one for each output"),
    (lambda: combine(of=plan(2)), "candidates: found 1, expected 2, one for each output"),
    (
        lambda: combine(task={"job": slice_of(first=32)}),
        "first: found 32, expected a multiple of 64 up to 2048",
    ),
    (
        lambda: combine(task={"job": slice_of(first=4096)}),
        "first: found 4096, expected a multiple of 64 up to 2048",
    ),
    (
        lambda: combine(task={"job": slice_of(first=64, n_elements=N)}),
        "n_elements: found 2048, expected at most 1984",
    ),
    (lambda: select(jobs=[3]), "job: found 3, expected 0 to 0"),
    (lambda: select(ranks=[N + 1]), "ranks: found 2049, expected 0 to 2048"),
    (lambda: select(measure=5), "measure: found 5, expected 0 to 4"),
    (lambda: select(measure=2), "scores: found 0, expected 2, one for each expert"),
    (lambda: select(measure=4), "draws: found 0, expected 1, one row for each job"),
    (
        lambda: select(measure=4, draws=[[draw()]]),
        "stages: found 1, expected 2, one for each expert",
    ),
    (lambda: select(share=2.0, measure=1), "share: found 2.0.*, expected 0 to 1"),
    (lambda: select(share=0.5), "share: found 0.5.*, expected 0 where magnitudes are ranked"),
    (lambda: select(plan(has_base=False), measure=1), "has_base: found False, expected a plan"),
    (lambda: pack(job=1), "job: found 1, expected 0 to 0"),
    (lambda: pack(mask=4), "mask: found 4, expected 0 to 3"),
    (lambda: pack(2), "outputs: found 2, expected 3, a mask for each lambda or expert"),
    (lambda: pack(mask=0, lambdas=[1.0]), "lambdas: found 1, expected as many for each of 2"),
    (
        lambda: pack(candidate={"weights": [1.0]}),
        "weights: found 1, expected 2, one for each expert",
    ),
    (
        lambda: pack(2, shared=None, mask=2),
        "shared: found None, expected the rule of the shared vector",
    ),
    (lambda: gram(job=2), "job: found 2, expected 0 to 0"),
    (lambda: gram(row_length=0), "row_length: found 0, expected a divisor of 2048 elements"),
    (lambda: gram(row_length=3), "row_length: found 3, expected a divisor of 2048 elements"),
    (lambda: gram(of=plan(has_base=False)), "has_base: found False, expected a plan"),
    (lambda: gram(job=slice_of(first=64)), "first: found 64, expected a multiple of 2048"),
    (lambda: stage_sums(stages=[draw()]), "stages: found 1, expected 2, one for each expert"),
    (
        lambda: plan(has_base=False).count_overlap(jobs=[0], floor=0, limits=LIMITS),
        "has_base: found False, expected a plan with a base",
    ),
    (
        lambda: plan().count_overlap(jobs=[0, 1], floor=0, limits=LIMITS),
        "job: found 1, expected 0 to 0",
    ),
    (
        lambda: plan().sum_squares(
            tasks=[_core.VarianceTask(job=1, floor=0, cutoff=0)], limits=LIMITS
        ),
        "job: found 1, expected 0 to 0",
    ),
    (
        lambda: plan().find_nonfinite(job=1, input=0, limits=LIMITS),
        "job: found 1, expected 0 to 0",
    ),
    (
        lambda: plan().find_nonfinite(job=0, input=3, limits=LIMITS),
        "input: found 3, expected 0 to 2",
    ),
    (lambda: plan().write(0, b"", 0), "file: found 0, expected none"),
    (lambda: plan().close(-1), "file: found -1, expected none"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_arguments_have_names() -> None:
    with pytest.raises(TypeError):
        plan().find_nonfinite(0, 0, LIMITS)  # type: ignore[misc]
    with pytest.raises(TypeError):
        _core.Candidate([1.0], 0, [0], [0])  # type: ignore[call-arg]


def test_several_candidates_of_one_read() -> None:
    """Two outputs of one task are those of two tasks with one candidate each."""
    numbers: list[dict[str, Any]] = [
        {"weights": [1.0, -1.0], "scale": 0.5, "zero_sign": 1},
        {"weights": [0.25, 2.0], "floors": [0x3F000000, -1], "cutoffs": [100, N]},
    ]
    both = [candidate(**one) for one in numbers]
    (result,) = combine(of=plan(2), codes=(1, 1, 3), task={"candidates": both})
    found = OUT[:2].copy()
    assert len(result.candidates) == 2
    for expected, merged, one in zip(found, result.candidates, both, strict=True):
        OUT[:] = 0
        (alone,) = combine(of=plan(1), codes=(1, 1, 3), task={"candidates": [one]})
        assert expected.tobytes() == OUT[0].tobytes()
        (single,) = alone.candidates
        assert merged.conflicts == single.conflicts
        assert merged.sign_sum == single.sign_sum
    assert found[0].tobytes() != found[1].tobytes()


def test_outputs_of_one_row_share_a_candidate(tmp_path: Path) -> None:
    made = _core.Plan(True)
    files = [tmp_path / "a", tmp_path / "b"]
    places = [(made.open_to_write(str(path), 4 * N), 0, F32) for path in files]
    made.add_job(N, PLACES[:3], places)
    (result,) = combine(of=made, codes=(1, 1, 3))
    assert len(result.candidates) == 1
    one, other = (path.read_bytes() for path in files)
    assert one == other and any(one)
