"""Selection, election, blend, whole methods and inner products against the reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tallies
from tallies import kernels
from tests.reference import blend, combine, elect, gram, select, ties
from tests.reference import masks as reference
from tests.reference.dtype import narrow, widen
from tests.support import strategies
from tests.support.everywhere import assert_everywhere, assert_same_bits, on_every_target
from tests.support.kernel_arrays import (
    BLENDS,
    VOTES,
    ZEROS,
    Array,
    arranged,
    arrays,
    deltas,
    f32,
    groups,
    shape_of,
)
from tests.support.strategies import KERNEL_DTYPES, Group


@given(arrays(min_size=1), st.data())
def test_kth_magnitude(x: Array, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, x.size))
    assert_everywhere(lambda: kernels.kth_magnitude(x, k), select.kth_magnitude(x, k), x)


@given(arrays(), strategies.densities(), st.sampled_from(["keep", "first"]))
def test_trim(x: Array, density: float, equal: str) -> None:
    expected = narrow(select.trim(x, density, equal), x.dtype)
    assert_everywhere(lambda: kernels.trim(x, density, equal=equal), expected, x)


@given(arrays(), st.data())
def test_magnitude_mask(x: Array, data: st.DataObject) -> None:
    own = [float(abs(value)) for value in x.ravel()[:8].astype(np.float32)]
    edges = [0.0, -0.0, np.inf, np.nan, 1e-45, 1e300]
    threshold = data.draw(st.sampled_from([*own, *edges]) | st.floats(0, width=32))
    with np.errstate(over="ignore"):
        expected = reference.magnitude_mask(x, np.float32(threshold))
    assert_everywhere(lambda: kernels.magnitude_mask(x, threshold), expected, x)


@given(arrays(min_size=1), st.data())
def test_magnitude_mask_keeps_what_kth_magnitude_ranks(x: Array, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, x.size))
    kept = kernels.unpack_bits(kernels.magnitude_mask(x, kernels.kth_magnitude(x, k)), x.size)
    assert kept.sum() >= k
    assert np.array_equal(kept, select.reaches(x, select.kth_magnitude(x, k)).ravel())


def test_trim_of_ten_magnitudes_to_a_fifth_keeps_three_or_two() -> None:
    x = np.arange(1, 11, dtype=np.float32) / 10
    assert np.count_nonzero(kernels.trim(x, 0.2)) == 3
    assert np.count_nonzero(kernels.trim(x, 0.2, equal="first")) == 2


def test_trim_keeps_all_equal_magnitudes_or_the_first() -> None:
    x = f32(2, 1, -2, 1, 2, 1, -2, 1, 2, 1)
    assert kernels.trim(x, 0.3).tolist() == [2, 0, -2, 0, 2, 0, -2, 0, 2, 0]
    assert kernels.trim(x, 0.3, equal="first").tolist() == [2, 0, -2, 0, 2, 0, 0, 0, 0, 0]


def test_trim_at_density_one_changes_no_bit_but_those_of_nan() -> None:
    x = np.array([0x80000000, 0, 1, 0x80000001, 0xFFC12345, 0x7F800000], np.uint32).view(np.float32)
    kept = kernels.trim(x, 1.0).view(np.uint32).tolist()
    assert kept == [0x80000000, 0, 1, 0x80000001, 0x7FC00000, 0x7F800000]


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 7, 8, 64, 131])
def test_trim_at_density_one_says_nothing_of_signalling_nan(
    size: int, dtype: np.dtype[Any]
) -> None:
    signalling = {"float32": 0xFF800001, "bfloat16": 0xFF81, "float16": 0xFC01}[dtype.name]
    x = np.full(size, signalling, f"u{dtype.itemsize}").view(dtype)
    assert_everywhere(lambda: kernels.trim(x, 1.0), narrow(x, dtype), x)


@given(deltas(), st.sampled_from(VOTES), st.sampled_from(ZEROS), st.data())
def test_elect_signs(x: Array | list[Array], vote: str, zero: str, data: st.DataObject) -> None:
    weights = data.draw(strategies.weights(len(x)))
    expected = elect.elect_signs(np.stack(list(x)), weights, vote, zero)
    assert_everywhere(lambda: kernels.elect_signs(x, weights, vote=vote, zero=zero), expected, *x)


@given(deltas(), st.sampled_from(BLENDS), st.data())
def test_disjoint_merge(x: Array | list[Array], kind: str, data: st.DataObject) -> None:
    weights = data.draw(strategies.weights(len(x)))
    n = shape_of(x)[0]
    raw = np.frombuffer(data.draw(st.binary(min_size=n, max_size=n)), np.int8)
    signs = raw if data.draw(st.booleans()) else raw % 3 - np.int8(1)
    stacked = np.stack(list(x))
    expected = narrow(blend.disjoint_merge(stacked, signs, weights, kind), stacked.dtype)
    assert_everywhere(
        lambda: kernels.disjoint_merge(x, signs, weights, blend=kind), expected, signs, *x
    )


@given(deltas(), st.sampled_from(BLENDS), st.data())
def test_blend_under_the_elected_signs(
    x: Array | list[Array], kind: str, data: st.DataObject
) -> None:
    weights = data.draw(strategies.weights(len(x)))
    stacked = np.stack(list(x))
    signs = elect.elect_signs(stacked, weights)
    expected = narrow(blend.disjoint_merge(stacked, signs, weights, kind), stacked.dtype)
    assert_everywhere(
        lambda: kernels.disjoint_merge(x, kernels.elect_signs(x, weights), weights, blend=kind),
        expected,
    )


def test_scalars_and_empty_arrays_have_signs_and_blends() -> None:
    for shape in ((), (0,), (0, 4), (1, 1, 1)):
        x = np.full((2, *shape), -2, np.float32)
        assert_same_bits(kernels.elect_signs(x), np.full(shape, -1, np.int8))
        assert_same_bits(
            kernels.disjoint_merge(x, np.full(shape, -1, np.int8)), np.full(shape, -2, np.float32)
        )


def test_a_nan_entry_elects_nothing_by_sum_and_has_no_voice_in_a_count() -> None:
    x = [f32(np.nan, 1), f32(7, -1)]
    assert kernels.elect_signs(x).tolist() == [0, -1]
    assert kernels.elect_signs(x, vote="count").tolist() == [1, 1]


def test_256_experts_take_part() -> None:
    x = np.ones((256, 3), np.float32)
    assert kernels.elect_signs(x).tolist() == [1, 1, 1]
    assert kernels.disjoint_merge(x, np.ones(3, np.int8), blend="sum").tolist() == [256] * 3
    packed = [kernels.pack_bits(np.array([True, i % 2 == 0, False])) for i in range(256)]
    for k, expected in ((128, 3), (129, 1), (256, 1), (257, 0), (512, 0), (2**31 - 1, 0)):
        assert kernels.consensus_mask(packed, 3, k).tolist() == [expected]


@given(groups(), strategies.scales(), st.data())
def test_ties(group: Group, scale: float, data: st.DataObject) -> None:
    n = len(group.experts)
    weights = data.draw(strategies.weights(n))
    semantics = data.draw(st.sampled_from(["paper", "mergekit"]))
    equal = data.draw(st.sampled_from(["keep", "first"])) if semantics == "paper" else "keep"
    one = strategies.densities()
    density = data.draw(one | st.lists(one, min_size=n, max_size=n))
    threads = data.draw(st.sampled_from([None, 1, 3]))
    base = data.draw(arranged(group.base))
    casts = data.draw(st.lists(st.sampled_from(KERNEL_DTYPES), min_size=n, max_size=n))
    with np.errstate(all="ignore"):
        experts = [
            x.astype(dtype).reshape(base.shape)
            for x, dtype in zip(group.experts, casts, strict=True)
        ]
    expected = ties.ties(base, experts, density, weights, scale, equal=equal, semantics=semantics)
    assert_everywhere(
        lambda: kernels.ties(
            base,
            experts,
            density=density,
            scale=scale,
            weights=weights,
            equal=equal,
            semantics=semantics,
            threads=threads,
        ),
        expected,
        base,
        *experts,
    )


@given(groups(), st.booleans(), st.data())
def test_combine(group: Group, has_base: bool, data: st.DataObject) -> None:
    n = len(group.experts)
    options = data.draw(strategies.rules(n))
    casts = data.draw(st.lists(st.sampled_from(KERNEL_DTYPES), min_size=n, max_size=n))
    with np.errstate(all="ignore"):
        experts = [x.astype(dtype) for x, dtype in zip(group.experts, casts, strict=True)]
    base = group.base if has_base else None
    assert_everywhere(
        lambda: kernels.combine(base, experts, **options),
        combine.combine(base, experts, **options),
        *experts,
    )


@given(groups(), strategies.densities())
def test_combine_does_ties(group: Group, density: float) -> None:
    experts = list(group.experts)
    assert_same_bits(
        kernels.combine(group.base, experts, density=density),
        kernels.ties(group.base, experts, density=density),
    )


@given(groups(), strategies.densities(), st.sampled_from(["keep", "first"]))
def test_ties_is_made_of_its_steps(group: Group, density: float, equal: str) -> None:
    base = np.zeros_like(group.base, np.float32)
    wide = [x.astype(np.float32) for x in group.experts]
    trimmed = [kernels.trim(x, density, equal=equal) for x in wide]
    merged = kernels.disjoint_merge(trimmed, kernels.elect_signs(trimmed))
    assert_same_bits(
        kernels.ties(base, wide, density=density, equal=equal),
        narrow(base + merged, np.float32),
    )


@given(deltas())
def test_gram(x: Array | list[Array]) -> None:
    results = on_every_target(lambda: kernels.gram(x))
    products = results[tallies.cpu.target()]
    for other in results.values():
        assert_same_bits(other, products)
    assert products.dtype == np.float64
    assert_same_bits(products, products.T.copy())
    expected = gram.gram(x)
    with np.errstate(invalid="ignore"):
        rows = [widen(row).astype(np.float64) for row in x]
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            if not math.isfinite(expected[i, j]):
                value = float(expected[i, j])
                assert_same_bits(products[i, j], np.float64(math.nan if value != value else value))
                continue
            # (n / 8 + 3) additions round, and so does the exact sum that they are held against.
            bound = (a.size / 8 + 4) * 2**-53 * math.fsum(abs(a * b))
            assert abs(products[i, j] - math.fsum(a * b)) <= bound


def test_gram_of_many_elements_stays_within_its_bound() -> None:
    x = np.random.default_rng(0).standard_normal((2, 100_003)).astype(np.float32)
    a, b = x.astype(np.float64)
    bound = (a.size / 65536 + 290) * 2**-53 * math.fsum(abs(a * b))
    assert abs(kernels.gram(x)[0, 1] - math.fsum(a * b)) <= bound
