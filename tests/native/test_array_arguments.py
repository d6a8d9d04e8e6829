"""The binding checks the arrays of a job: sizes of records, open files, memory, counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tallies import _core
from tallies.spec.dtypes import DTYPE_CODES

N = 2048
LIMITS = _core.Limits(1, 1 << 16)
F32, BF16, F64 = (DTYPE_CODES[name] for name in ("F32", "BF16", "F64"))
ROOM: npt.NDArray[np.uint8] = np.zeros((8, 8 * N), np.uint8)
AT = [row.ctypes.data for row in ROOM]
MASK = (-1, AT[7], -1)


def place(i: int, code: int = F32, file: int = -1) -> tuple[int, int, int]:
    return (file, AT[i], code)


def plan(
    inputs: list[Any], outputs: list[Any], *, n: int = N, has_base: bool = True, **how: Any
) -> _core.Plan:
    made = _core.Plan(has_base)
    made.add_job(n, inputs, outputs, **how)
    return made


def two(*outputs: Any, **how: Any) -> _core.Plan:
    return plan([place(0), place(1)], list(outputs), **how)


def candidate(n: int, **changes: Any) -> _core.Candidate:
    numbers: dict[str, Any] = {"weights": [1.0] * n, "floors": [-1] * n, "cutoffs": [N] * n}
    return _core.Candidate(**numbers | changes)


def combine(made: _core.Plan, n_outputs: int = 1, **changes: Any) -> object:
    task = _core.CombineTask(job=0, candidates=[candidate(1, **changes)] * n_outputs)
    return made.combine(tasks=[task], gate=0, vote=0, blend=0, limits=LIMITS)


def pack(*outputs: Any) -> object:
    task = _core.PackTask(job=0, shared=candidate(1))
    return _core.pack(
        plan=two(*outputs, apart=True),
        tasks=[task],
        shared=(0, 0, 0),
        mask=1,
        with_sums=False,
        stop_at_overflow=False,
        limits=LIMITS,
    )


def read_delta(job: int = 0, expert: int = 0, **how: Any) -> object:
    return _core.read_delta(two(**how), job, expert, AT[2], LIMITS)


def write_merged(*outputs: Any, job: int = 0, **how: Any) -> object:
    return _core.write_merged(two(*outputs, **how), job, AT[2], 1.0, LIMITS)


def restore(inputs: list[Any], *outputs: Any, **how: Any) -> object:
    return _core.restore(plan(inputs, list(outputs), **how), LIMITS)


def sparse(i: int, code: int = F32, **how: Any) -> _core.Source:
    starts = _core.count_mask(mask=AT[7], n_elements=N)
    return _core.Source.sparse(values=place(i, code), mask=MASK, starts=starts, **how)


def rule(values: int = 1, job: int = 0, row_length: int = N) -> _core.SparseRule:
    return _core.SparseRule(job, values, 0, row_length)


def pack_sparse(
    counted: _core.SparseRule, packed: _core.SparseRule, *entry: Any, of: _core.Plan | None = None
) -> object:
    made = of or two()
    counts = _core.count_sparse(made, [counted], LIMITS)
    return _core.pack_sparse(made, [packed], counts, [tuple(entry)], LIMITS)


def stages(n_outliers: int, n_kept: int) -> object:
    band = _core.RowBand(n_outliers=n_outliers, n_kept=n_kept)
    task = _core.StageTask(job=0, stages=[band], row_length=64)
    return two().stage_sums(tasks=[task], limits=LIMITS)


def weighted(source: _core.Source, n_blocks: int = 1) -> None:
    _core.weighted_sum([source], N, n_blocks, 1, AT[0], F32, AT[1], AT[2])


IN_FILE = _core.Source.plain(values=(0, 0, F32))
REPLACING = _core.Source.plain(values=place(1, BF16), replaces=True)

BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: read_delta(expert=1), "expert: found 1, expected 0 to 0"),
    (lambda: read_delta(expert=-1), "expert: found -1, expected 0 to 0"),
    (lambda: read_delta(job=1), "job: found 1, expected 0 to 0"),
    (lambda: read_delta(has_base=False), "has_base: found False, expected a plan with a base"),
    (lambda: write_merged(place(3), job=-1), "job: found -1, expected 0 to 0"),
    (lambda: write_merged(), "rows of outputs: found 0, expected 1"),
    (lambda: write_merged(MASK), "outputs: found 1 bits, expected 32 bits"),
    (lambda: write_merged(place(3), has_base=False), "has_base: found False, expected a plan"),
    (lambda: restore([place(0)], MASK), "values: found 32 bits, expected 1 bits"),
    (lambda: restore([place(0), REPLACING], place(3)), "values: found 16 bits, expected 32 bits"),
    (
        lambda: restore([place(0, BF16), sparse(1, replaces=True)], place(3)),
        "values: found 16 bits, expected 32 bits",
    ),
    (
        lambda: restore([_core.Source.zero(), sparse(1, replaces=True)], place(3)),
        "inputs: found a source that is decoded, expected plain values",
    ),
    (lambda: restore([place(0), place(1)], MASK), "outputs: found 1 bits, expected 32 bits"),
    (
        lambda: restore([place(0)], place(3), place(4), apart=True),
        "rows of outputs: found 2, expected 1",
    ),
    (lambda: two(place(3), place(4, BF16)), "found outputs of dtypes 0 and 1 with the same values"),
    (lambda: two(grain=1 << 40), "found grain 1099511627776, expected a multiple of 64 up to"),
    (lambda: combine(two(MASK)), "outputs: found 1 bits, expected 32 bits"),
    (
        lambda: combine(two(place(3), place(4, F64), apart=True), 2),
        "outputs: found 64 bits, expected 32 bits",
    ),
    (
        lambda: combine(two(place(3)), row_length=2**64 - 1, weights=[]),
        "weights: found 0, expected 1, one for each row and expert",
    ),
    (lambda: pack(MASK, MASK), "outputs: found 1 bits, expected 32 bits"),
    (lambda: pack(place(3), place(4)), "outputs: found 32 bits, expected 1 bits"),
    (lambda: stages(65, 0), "n_outliers and n_kept: found 65 and 0, expected at most the row's 64"),
    (lambda: stages(0, 2**64 - 1), "found 0 and 18446744073709551615, expected at most the row's"),
    (lambda: _core.count_sparse(two(), [rule(job=1)], LIMITS), "job: found 1, expected 0 to 0"),
    (
        lambda: _core.count_sparse(two(has_base=False), [rule()], LIMITS),
        "has_base: found False, expected a plan with a base",
    ),
    (
        lambda: _core.count_sparse(plan([place(0)], []), [rule()], LIMITS),
        "experts: found 0, expected 1, whose task vector is packed",
    ),
    (
        lambda: _core.count_sparse(two(), [rule(2, row_length=3)], LIMITS),
        "row_length: found 3, expected a divisor of 2048 elements",
    ),
    (
        lambda: _core.count_sparse(plan([place(0), place(1, BF16)], []), [rule(0)], LIMITS),
        "expert: found 16 bits, expected 32 bits",
    ),
    (
        lambda: pack_sparse(rule(1), rule(2), MASK, place(3), place(4)),
        "counts: found 0, expected 1, as count_sparse finds by the same rules",
    ),
    (
        lambda: pack_sparse(rule(2), rule(2), MASK, place(3), place(4)),
        "values: found 32 bits, expected 8 bits",
    ),
    (
        lambda: pack_sparse(rule(0), rule(0), MASK, place(3, BF16), place(4)),
        "values: found 16 bits, expected 32 bits",
    ),
    (
        lambda: pack_sparse(rule(1), rule(1), MASK, (0, 0, F32), place(4)),
        "found file 0, expected one of the 0 that the plan has opened",
    ),
    (
        lambda: _core.count_masks(two(), [(N, (3, 0, -1))], LIMITS),
        "found file 3, expected one of the 0 that the plan has opened",
    ),
    (
        lambda: IN_FILE.decode(n_elements=N, threads=1, out=AT[2]),
        "file: found 0, expected -1, memory",
    ),
    (lambda: weighted(IN_FILE), "file: found 0, expected -1, memory"),
    (
        lambda: weighted(_core.Source.zero(), 2**63),
        "n_blocks: found 9223372036854775808, expected no more blocks than",
    ),
    (lambda: _core.widen(AT[0], 99, AT[1], 1), "dtype: found 99, expected 0 to 5"),
    (lambda: _core.narrow(AT[0], AT[1], -1, 1), "dtype: found -1, expected 0 to 5"),
    (
        lambda: _core.survey(F64, AT[0], AT[1], 1, 0, 0, AT[2], False),
        "dtype: found 3, expected 0 to 2",
    ),
    (
        lambda: _core.elect_signs([AT[0]], [], False, 0, AT[1], 1),
        "weights: found 0, expected 1, one for each expert",
    ),
    (
        lambda: _core.disjoint_merge([AT[0]], [1.0] * 2, AT[1], 0, AT[2], 1),
        "weights: found 2, expected 1, one for each expert",
    ),
    (
        lambda: _core.combine(F32, 0, 0, 0, AT[0], [AT[1]], [1.0], [], 1.0, 0, AT[2], 1),
        "floors: found 0, expected 1, one for each expert",
    ),
    (
        lambda: _core.combine_scales(
            F32, 0, 0, 0, AT[0], [AT[1]], [1.0], [0], [1.0, 2.0], 0, [AT[2]], [], 1
        ),
        "outs: found 1, expected 2, one for each scale",
    ),
    (
        lambda: _core.combine_scales(
            F32, 0, 0, 0, AT[0], [AT[1]], [1.0], [0], [1.0], 0, [AT[2]], AT[:2], 1
        ),
        "others: found 2, expected 1, one for each scale",
    ),
]


@pytest.mark.parametrize("call, message", BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_arrays(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_source_without_arrays_is_read_by_every_pass() -> None:
    """Its content has no bytes, and its fingerprint is zero."""
    base = np.arange(N, dtype=np.float32)
    made = plan([(-1, base.ctypes.data, F32), _core.Source.zero()], [place(3)])
    out = np.empty(N, np.float32)
    inputs, nonfinite = _core.read_delta(made, 0, 0, out.ctypes.data, LIMITS)
    np.testing.assert_array_equal(out, -base)
    assert any(inputs[0]) and inputs[1] == [0] * 8 and not nonfinite
    (found,) = made.combine(
        tasks=[_core.CombineTask(job=0, candidates=[candidate(1)])],
        gate=0,
        vote=0,
        blend=0,
        fingerprints=True,
        limits=LIMITS,
    )
    assert found.inputs == inputs
