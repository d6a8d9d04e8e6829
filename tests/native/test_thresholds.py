"""Thresholds and cut-offs of tensors that are ranked together, and the passes that they take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import _core
from tallies.engine.codes import INFINITY_BITS
from tallies.spec.dtypes import DTYPE_CODES, DTYPE_OF_ARRAY
from tests.reference import select
from tests.reference.dtype import widen
from tests.support import strategies
from tests.support.everywhere import Array, on_every_target
from tests.support.hard_arrays import KINDS, N, array, descending, ranks


def place(x: Array) -> tuple[int, int, int]:
    return (-1, x.ctypes.data, DTYPE_CODES[DTYPE_OF_ARRAY[x.dtype.name]])


def n_passes(x: Array, rank: int) -> int:
    """Return how often one threshold reads the whole array, besides its sample."""
    moved: list[int] = []
    plan = _core.Plan(False)
    plan.add_job(x.size, [place(x)], [])
    plan.select(
        units=[_core.Unit(jobs=[0], ranks=[rank])],
        locate=False,
        limits=_core.Limits(1, 1 << 20),
        progress=moved.append,
    )
    return sum(moved) // (x.size * x.itemsize)


@pytest.mark.parametrize("kind", KINDS)
def test_a_threshold_takes_at_most_three_passes_after_the_sample(kind: str) -> None:
    x = array(kind)
    assert {n_passes(x, k) for k in ranks(descending(kind, "float32"))} <= {1, 2, 3}


def test_a_sample_that_misleads_costs_more_passes() -> None:
    assert n_passes(array("few values"), N // 5) == 1
    assert n_passes(array("smooth"), N // 5) == 1
    assert n_passes(array("teeth"), N // 5) == 2


def thresholds(
    base: Sequence[Array] | None,
    experts: Sequence[Sequence[Array]],
    units: Sequence[tuple[list[int], list[int]]],
    n_threads: int,
    buffer_bytes: int = 1 << 20,
) -> list[list[tuple[int, ...]]]:
    """(bits, n_above, n_equal, last_job, last_count) of each unit and expert with a rank."""
    plan = _core.Plan(base is not None)
    for job, tensors in enumerate(zip(*experts, strict=True)):
        inputs = [*([base[job]] if base is not None else []), *tensors]
        plan.add_job(tensors[0].size, [place(x) for x in inputs], [])
    found = plan.select(
        units=[_core.Unit(jobs=jobs, ranks=ranks) for jobs, ranks in units],
        locate=True,
        limits=_core.Limits(n_threads, buffer_bytes),
    )
    return [
        [
            (t.bits, t.n_above, t.n_equal, t.last_job, t.last_count)
            for t, rank in zip(row, ranks, strict=True)
            if rank > 0
        ]
        for row, (_, ranks) in zip(found, units, strict=True)
    ]


def expected_threshold(deltas: Sequence[Array], rank: int) -> tuple[int, ...]:
    """The same of one expert, whose task vectors are ranked together in this order."""
    patterns = np.minimum(
        np.concatenate([select.magnitude_bits(x) for x in deltas]), INFINITY_BITS + 1
    )
    bits = int(np.sort(patterns)[::-1][rank - 1])
    n_above, n_equal = int((patterns > bits).sum()), int((patterns == bits).sum())
    if rank == n_above + n_equal:
        return (bits, n_above, n_equal, len(deltas), 0)
    last = int(np.flatnonzero(patterns == bits)[rank - n_above - 1])
    for job, delta in enumerate(deltas):
        if last < delta.size:
            return (bits, n_above, n_equal, job, last + 1)
        last -= delta.size
    raise AssertionError("the last one kept lies in one of the tensors")


@pytest.mark.parametrize("kind", KINDS)
def test_bins_where_there_is_no_room_for_lists(kind: str) -> None:
    x = array(kind)
    chosen = ranks(descending(kind, "float32"))
    (found,) = thresholds(None, [[x]], [([0], chosen)], n_threads=2, buffer_bytes=1)
    assert found == [expected_threshold([x], rank) for rank in chosen]


def test_cut_offs_where_there_is_no_room_to_count_by_tiles() -> None:
    x = array("few values")
    # Tiles of 64 elements, and in each a count for every threshold.
    assert N // 64 * 450 > 1 << 20
    chosen = [N // 5, N // 3, N // 2] * 150
    (found,) = thresholds(None, [[x]], [([0], chosen)], n_threads=2, buffer_bytes=1)
    assert found == [expected_threshold([x], rank) for rank in chosen[:3]] * 150


def test_a_threshold_and_its_cut_off_are_found_in_one_pass() -> None:
    x = array("few values")
    moved: list[int] = []
    plan = _core.Plan(False)
    plan.add_job(x.size, [place(x)], [])
    limits = _core.Limits(1, 1 << 20)
    (row,) = plan.select(
        units=[_core.Unit(jobs=[0], ranks=[N // 5])],
        locate=True,
        limits=limits,
        progress=moved.append,
    )
    assert (row[0].last_job, row[0].last_count) == expected_threshold([x], N // 5)[3:]
    assert sum(moved) // (x.size * x.itemsize) == 1


def pieces(x: Array, *sizes: int) -> list[Array]:
    return np.split(x, np.cumsum(sizes))


@pytest.mark.parametrize("n_threads", [1, 3])
def test_tensors_ranked_together_and_where_equal_magnitudes_are_cut_off(n_threads: int) -> None:
    sizes = (70_000, 1, 0, 12_345, 64, 3000)
    kinds = ("few values", "smooth", "mostly zero", "all equal", "all zero", "two values", "blocks")
    experts = [pieces(array(kind), *sizes) for kind in kinds]
    base = pieces(array("few values")[::-1].copy(), *sizes)
    units = [
        # More experts than are sampled together; one needs no rank; jobs not in order.
        ([3, 0, 2, 1, 4], [1, 30_000, 4000, 0, 77_777, 82_410, 50_000]),
        ([6], [60_000, 1, 100, 64_590, 7, 20_000, 64_591]),
        ([5], [2, 2, 0, 3000, 1, 1500, 17]),
    ]
    for origin in (None, base):
        expected = []
        for jobs, chosen in units:
            row = []
            for expert, rank in zip(experts, chosen, strict=True):
                deltas = [expert[job] for job in jobs]
                if origin is not None:
                    deltas = [expert[job] - origin[job] for job in jobs]
                if rank > 0:
                    row.append(expected_threshold(deltas, rank))
            expected.append(row)
        found = on_every_target(lambda o=origin: thresholds(o, experts, units, n_threads))  # type: ignore[misc]
        for target, rows in found.items():
            assert rows == expected, target


@settings(max_examples=60)
@given(strategies.models(min_experts=1, nonfinite=True), st.integers(1, 3), st.data())
def test_thresholds_of_small_models_of_mixed_types(
    models: strategies.Models, n_threads: int, data: st.DataObject
) -> None:
    names = sorted(models.base)
    base = [models.base[name] for name in names]
    with np.errstate(all="ignore"):
        experts = [
            [x[name].astype(data.draw(strategies.dtypes())) for name in names]
            for x in models.experts
        ]
        deltas = [
            [widen(a) - widen(b) for a, b in zip(expert, base, strict=True)] for expert in experts
        ]
    size = sum(x.size for x in base)
    if size == 0:
        return
    chosen = [data.draw(st.integers(1, size)) for _ in experts]
    unit = (list(range(len(base))), chosen)
    expected = [
        expected_threshold([d.ravel() for d in ds], k) for ds, k in zip(deltas, chosen, strict=True)
    ]
    for rows in on_every_target(lambda: thresholds(base, experts, [unit], n_threads)).values():
        assert rows == [expected]


def test_counts_of_equal_entries_are_shared_by_tiles_of_large_models() -> None:
    """With so many tiles and experts, two tiles share a count."""
    n_experts, n = 64, 64 * 33_001
    x = np.random.default_rng(0).choice(np.float32([1, -1, 2, 0.5]), n)
    plan = _core.Plan(has_base=False)
    for _ in range(2):
        plan.add_job(n, [place(x)] * n_experts, [])
    n_large, n_one = int((x == 2).sum()), int((abs(x) == 1).sum())
    ranks = [n_large + 1 + e * (2 * n_one - 2) // (n_experts - 1) for e in range(n_experts)]
    ranks = [n_large + rank for rank in ranks]
    (found,) = plan.select(
        units=[_core.Unit(jobs=[0, 1], ranks=ranks)],
        locate=True,
        limits=_core.Limits(2, 1 << 20, 64 * 4 * n_experts),
    )
    ones = np.flatnonzero(abs(np.concatenate([x, x])) == 1)
    for one, rank in zip(found, ranks, strict=True):
        end = int(ones[rank - 2 * n_large - 1]) + 1
        assert (one.bits, one.last_job * n + one.last_count) == (0x3F800000, end)
