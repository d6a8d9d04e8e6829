"""The exact selection where it takes several passes: large arrays, many equal magnitudes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import _core, kernels, merge_state_dicts
from tallies.engine.codes import INFINITY_BITS
from tallies.spec.dtypes import DTYPE_CODES, DTYPE_OF_ARRAY
from tests.reference import select
from tests.reference.dtype import widen
from tests.reference.ties import ties_model
from tests.support import strategies
from tests.support.everywhere import assert_everywhere, assert_same_bits, on_every_target

Array = npt.NDArray[Any]

N = 150_001
"""More than the 65536 elements up to which an array is selected from as a whole."""

KINDS = (
    "smooth",
    "all equal",
    "all zero",
    "all nan",
    "few values",
    "mostly zero",
    "two values",
    "nan and infinity among",
    "ascending",
    "descending",
    "outliers",
    "subnormals",
    "any bits",
    "blocks",
    "teeth",
)


@cache
def array(kind: str) -> npt.NDArray[np.float32]:
    """An array of N elements that is hard to select from in its own way."""
    return np.asarray(_values(kind), np.float32)


def _values(kind: str) -> Any:
    rng = np.random.default_rng(len(kind))
    smooth = rng.standard_normal(N).astype(np.float32)
    index = np.arange(N)
    signs = rng.choice(np.array([-1, 1], np.float32), N)
    if kind == "all equal":
        return np.full(N, -0.37, np.float32)
    if kind == "all zero":
        return np.zeros(N, np.float32) * signs
    if kind == "all nan":
        return (0x7F800001 + index * 97 % 0x7FFFFE).astype(np.uint32).view(np.float32)
    if kind == "few values":
        return rng.choice(np.array([0, 1, 1.5, -1.5, 2, -7], np.float32), N)
    if kind == "mostly zero":
        return np.where(rng.random(N) < 0.97, np.float32(0), smooth)
    if kind == "two values":
        # Neighbouring patterns: no room for a bracket between them.
        return np.where(
            rng.random(N) < 0.5, np.float32(1), np.nextafter(np.float32(1), np.float32(2))
        )
    if kind == "nan and infinity among":
        smooth[rng.integers(0, N, 4000)] = np.nan
        smooth[rng.integers(0, N, 4000)] = -np.inf
        return smooth
    if kind == "ascending":
        return np.sort(np.abs(smooth)) * signs
    if kind == "descending":
        return np.sort(np.abs(smooth))[::-1] * signs
    if kind == "outliers":
        smooth[rng.integers(0, N, 40)] *= np.float32(1e30)
        return smooth
    if kind == "subnormals":
        return (rng.integers(0, 3000, N).astype(np.uint32)).view(np.float32) * signs
    if kind == "any bits":
        return rng.integers(0, 2**32, N, np.uint32).view(np.float32)
    if kind == "blocks":
        # Sorted in each sixteenth: short runs at equal distances see a sliver of the values.
        return ((index % (N // 16)) / 1000).astype(np.float32) * signs
    if kind == "teeth":
        # One value in those runs and others everywhere else.
        at = index % (N // 16)
        return np.where((at >= N // 32) & (at < N // 32 + 1024), np.float32(3), smooth)
    return smooth


@cache
def descending(kind: str, dtype: str) -> npt.NDArray[np.uint32]:
    """Patterns of all magnitudes, the largest first."""
    return np.sort(select.magnitude_bits(array(kind).astype(dtype)))[::-1]


def ranks(patterns: npt.NDArray[np.uint32]) -> list[int]:
    """Ranks at both ends, in the middle, and on either side of where equal magnitudes end."""
    n = patterns.size
    changes = np.flatnonzero(np.diff(patterns.astype(np.int64))) + 1
    edges = [int(changes[i]) for i in (0, changes.size // 2, -1)] if changes.size else []
    chosen = [1, 2, n // 1000, n // 5, n // 2, n - 1, n, *edges, *(edge + 1 for edge in edges)]
    return sorted(set(chosen))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_kth_magnitude_of_a_large_array(kind: str, dtype: str) -> None:
    x = array(kind).astype(dtype)
    patterns = descending(kind, dtype)
    chosen = ranks(patterns)
    expected = patterns.view(np.float32)[[k - 1 for k in chosen]]
    assert_everywhere(
        lambda: np.array([kernels.kth_magnitude(x, k) for k in chosen], np.float32), expected, x
    )


@pytest.mark.parametrize("kind", KINDS)
def test_kth_magnitude_is_that_of_numpy(kind: str) -> None:
    x = array(kind)
    for k in (1, N // 3, N):
        expected = np.partition(np.abs(x), N - k)[N - k]  # NaN last
        assert np.array_equal(kernels.kth_magnitude(x, k), expected, equal_nan=True)


def n_passes(x: Array, rank: int) -> int:
    """How often the whole array is read for one threshold, besides its sample."""
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


@pytest.mark.parametrize("kind", KINDS)
def test_trim_of_a_large_array_keeps_exactly_k_or_all_equal_ones(kind: str) -> None:
    x = array(kind)
    for density in (0.0001, 0.2, 0.5, 0.98):
        for equal in ("keep", "first"):
            expected = select.trim(x, density, equal)
            assert_everywhere(lambda d=density, e=equal: kernels.trim(x, d, equal=e), expected)  # type: ignore[misc]


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 65_536 + 1024])
def test_selection_on_both_sides_of_the_size_that_is_read_whole(size: int) -> None:
    x = array("smooth")[:size]
    ordered = np.sort(np.abs(x))[::-1]
    chosen = [1, size // 4, size]
    assert_everywhere(
        lambda: np.array([kernels.kth_magnitude(x, k) for k in chosen], np.float32),
        ordered[[k - 1 for k in chosen]],
    )


# The plan itself: several tensors ranked together, several experts, several units.


def place(x: Array) -> tuple[int, int, int]:
    return (-1, x.ctypes.data, DTYPE_CODES[DTYPE_OF_ARRAY[x.dtype.name]])


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


def large_models(dtype: npt.DTypeLike) -> tuple[dict[str, Array], list[dict[str, Array]]]:
    shapes = {"b": (300, 217), "a": (70_000,), "c.scalar": (), "c.empty": (0, 3), "é": (37,)}
    kinds = ("few values", "mostly zero", "nan and infinity among")

    def model(x: npt.NDArray[np.float32], scale: float) -> dict[str, Array]:
        out, at = {}, 0
        for name, shape in shapes.items():
            n = int(np.prod(shape))
            with np.errstate(all="ignore"):
                out[name] = (x[at : at + n] * np.float32(scale)).astype(dtype).reshape(shape)
            at += n
        return out

    base = model(array("smooth"), 1)
    with np.errstate(all="ignore"):
        experts = [
            {
                n: (base[n].astype(np.float32) + d.astype(np.float32)).astype(dtype)
                for n, d in m.items()
            }
            for m in (model(array(kind), 0.25) for kind in kinds)
        ]
    return base, experts


OPTIONS: list[dict[str, Any]] = [
    *(
        {"density": 0.3, "equal": e, "scope": s}
        for e in ("keep", "first")
        for s in ("model", "tensor")
    ),
    {"density": [0.01, 0.9, 0.5], "equal": "first"},
    {"density": 0.3, "semantics": "mergekit"},
]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("chosen", OPTIONS, ids=str)
def test_large_models_merge_to_the_same_bits_on_any_number_of_threads(
    dtype: npt.DTypeLike, chosen: dict[str, Any]
) -> None:
    base, experts = large_models(dtype)
    given_ = dict(chosen)
    expected = ties_model(base, experts, given_.pop("density"), **given_)
    for threads in (1, 4):
        for merged in on_every_target(
            lambda n=threads: merge_state_dicts(  # type: ignore[misc]
                base, experts, nonfinite="propagate", threads=n, **chosen
            )
        ).values():
            assert list(merged) == list(base)
            for name, tensor in merged.items():
                assert_same_bits(tensor, expected[name])


def test_a_mask_of_the_kth_magnitude_has_k_bits_where_none_are_equal() -> None:
    x = np.random.default_rng(3).permutation(N).astype(np.float32)
    for k in (1, N // 5, N):
        mask = kernels.magnitude_mask(x, kernels.kth_magnitude(x, k))
        assert kernels.unpack_bits(mask, N).sum() == k
