"""The functions on arrays against the reference, bit for bit, on every instruction set."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tallies
from tallies import InputError, kernels
from tallies.kernels import masks
from tests.reference import blend, combine, elect, gram, select, ties
from tests.reference import masks as reference
from tests.reference.dtype import narrow, widen
from tests.support import strategies
from tests.support.everywhere import assert_everywhere, assert_same_bits, on_every_target
from tests.support.strategies import KERNEL_DTYPES, Group

Array = npt.NDArray[Any]

VOTES = ("sum", "count")
ZEROS = ("majority", "positive", "negative", "drop")
BLENDS = ("mean", "sum", "max", "weighted_mean")


def f32(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


@st.composite
def arranged(draw: st.DrawFn, x: Array) -> Array:
    """The elements of ``x`` in some shape and memory layout, in the same row-major order."""
    kind = draw(st.sampled_from(["plain", "strided", "reversed", "columns", "scalar", "unaligned"]))
    if kind == "strided":
        return np.repeat(x, 2)[::2]
    if kind == "reversed":
        return x[::-1].copy()[::-1]
    if kind == "columns":
        rows = draw(st.sampled_from([n for n in (1, 2, 3, 4, 7) if x.size % n == 0]))
        return np.asfortranarray(x.reshape(rows, x.size // rows))
    if kind == "scalar" and x.size == 1:
        return x.reshape(())
    if kind == "unaligned":
        return np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1)
    return x


@st.composite
def arrays(draw: st.DrawFn, min_size: int = 0) -> Array:
    """Arrays of the kernels' types in any layout."""
    dtype = draw(st.sampled_from(KERNEL_DTYPES))
    return draw(arranged(draw(strategies.arrays(dtype, min_size))))


@st.composite
def groups(draw: st.DrawFn, max_experts: int = 4) -> Group:
    """A base and experts of one of the kernels' types."""
    dtype = draw(st.sampled_from(KERNEL_DTYPES))
    return draw(strategies.groups(dtype, max_experts=max_experts))


@st.composite
def deltas(draw: st.DrawFn) -> Array | list[Array]:
    """Task vectors as a sequence, each in a layout of its own, or stacked."""
    rows = draw(groups()).experts
    if draw(st.booleans()):
        return np.stack(rows) if draw(st.booleans()) else np.asfortranarray(np.stack(rows))
    return [draw(arranged(row)).reshape(row.shape) for row in rows]


def shape_of(group: Array | list[Array]) -> tuple[int, ...]:
    return group[0].shape


# Selection.


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


# Election and blend.


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


# TIES.


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


# Masks.


@given(groups(max_experts=2), st.floats(0, 3, width=32) | st.sampled_from([0.1, 1e-46, 3e38]))
def test_tall_mask(group: Group, lam: float) -> None:
    x, m = group.experts[0], group.experts[-1].astype(np.float32)
    expected = reference.tall_mask(x, m, lam)
    assert_everywhere(lambda: kernels.tall_mask(x, m, lam), expected, x, m)


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0, 6.0])
def test_tall_mask_is_strict_and_compares_task_vectors(lam: float) -> None:
    x, m = f32(0, 1, 0, np.nan, 1), f32(0, 1, 1, 1, np.nan)
    assert kernels.unpack_bits(kernels.tall_mask(x, m, lam), 5).tolist() == [
        False, True, False, False, False,
    ]  # fmt: skip
    assert kernels.tall_mask(f32(0.1), f32(1), 0.4).tolist() == [0]


@given(strategies.sizes(max_size=300), st.data())
def test_consensus_mask(n: int, data: st.DataObject) -> None:
    n_masks = data.draw(st.integers(1, 9))
    n_bytes = (n + 7) // 8
    raw = data.draw(st.binary(min_size=n_masks * n_bytes, max_size=n_masks * n_bytes))
    # Bits past the n-th are set as well: they must not come through.
    packed = np.frombuffer(raw, np.uint8).reshape(n_masks, n_bytes)
    k = data.draw(st.integers(0, n_masks + 1))
    expected = reference.consensus_mask(list(packed), n, k)
    assert_everywhere(lambda: kernels.consensus_mask(packed, n, k), expected, packed)
    assert_everywhere(lambda: kernels.consensus_mask(list(packed), n, k), expected)


@given(strategies.sizes(max_size=300), st.data())
def test_pack_bits_and_back(n: int, data: st.DataObject) -> None:
    mask = np.frombuffer(data.draw(st.binary(min_size=n, max_size=n)), np.uint8) % 2 == 1
    arrangement = data.draw(arranged(mask))
    packed = kernels.pack_bits(arrangement)
    assert_same_bits(packed, reference.pack_bits(mask))
    unpacked = kernels.unpack_bits(packed, n)
    assert_same_bits(unpacked, mask)
    assert unpacked.flags.writeable


@given(groups(max_experts=1), strategies.scales(), st.data())
def test_apply_mask(group: Group, scale: float, data: st.DataObject) -> None:
    base, shared = data.draw(arranged(group.base)), group.experts[0]
    shared = shared.astype(np.float32).reshape(base.shape)
    n_bytes = (base.size + 7) // 8
    packed = np.frombuffer(data.draw(st.binary(min_size=n_bytes, max_size=n_bytes)), np.uint8)
    expected = reference.apply_mask(base, shared, packed, scale)
    assert_everywhere(
        lambda: kernels.apply_mask(base, shared, packed, scale), expected, base, shared, packed
    )


@given(groups(max_experts=1))
def test_a_mask_that_leaves_nothing_out_gives_the_expert_back(group: Group) -> None:
    base, expert = (x.astype(np.float32) for x in (group.base, group.experts[0]))
    with np.errstate(all="ignore"):
        shared = expert - base
        expected = narrow(base + shared, np.float32)
    full = kernels.magnitude_mask(base, 0)
    assert_same_bits(kernels.apply_mask(base, shared, full), expected)


# Inner products.


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


# Arguments.

X, Y = f32(1, 2, 3), f32(4, 5)
SIGNS = np.ones(3, np.int8)
MASK = np.ones(1, np.uint8)

REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: kernels.kth_magnitude([1.0], 1), "x: found list, expected a NumPy array"),  # type: ignore[arg-type]
    (lambda: kernels.kth_magnitude(np.ones(3), 1), "x: found dtype float64, expected one of"),
    (lambda: kernels.kth_magnitude(np.ones(3, ">f4"), 1), "x: found dtype >f4, expected one of"),
    (lambda: kernels.kth_magnitude(f32(), 1), "x: found no elements, expected at least one"),
    (lambda: kernels.kth_magnitude(X, 0), "k: found 0, expected a whole number from 1 to 3"),
    (lambda: kernels.kth_magnitude(X, 4), "k: found 4, expected a whole number from 1 to 3"),
    (lambda: kernels.kth_magnitude(X, 1.0), "k: found 1.0, expected a whole number"),  # type: ignore[arg-type]
    (lambda: kernels.kth_magnitude(X, True), "k: found True, expected a whole number"),
    (lambda: kernels.trim(X, 1.5), "density: found 1.5, expected a number from 0 to 1"),
    (lambda: kernels.trim(X, -0.1), "density: found -0.1, expected a number from 0 to 1"),
    (lambda: kernels.trim(X, np.nan), "density: found nan, expected a number from 0 to 1"),
    (lambda: kernels.trim(X, True), "density: found True, expected a number from 0 to 1"),
    (lambda: kernels.trim(X, "0.5"), "density: found '0.5', expected a number"),  # type: ignore[arg-type]
    (lambda: kernels.trim(X, 0.5, equal="frist"), "equal 'frist' .* did you mean 'first'"),
    (lambda: kernels.magnitude_mask(X, -1), "threshold: found -1, expected a number of 0 or more"),
    (lambda: kernels.elect_signs([]), "deltas: found 0 arrays, expected 1 to 256"),
    (lambda: kernels.elect_signs(np.ones((257, 2), np.float32)), "deltas: found 257 arrays"),
    (lambda: kernels.elect_signs(3), "deltas: found int, expected a sequence of arrays"),  # type: ignore[arg-type]
    (lambda: kernels.elect_signs(np.ones((), np.float32)), "deltas: found a 0-d array, expected"),
    (lambda: kernels.elect_signs([X, Y]), r"deltas\[1\]: found shape \(2,\), expected .*\(3,\)"),
    (
        lambda: kernels.elect_signs([X, X.astype(np.float16)]),
        r"deltas\[1\]: found dtype float16, expected that of deltas\[0\], float32",
    ),
    (lambda: kernels.elect_signs([X, X.astype(int)]), r"deltas\[1\]: found dtype int64, expected"),
    (lambda: kernels.elect_signs([X], [1, 2]), "weights: found 2 values, expected one for each of"),
    (lambda: kernels.elect_signs([X], 1.0), "weights: found 1.0, expected 1 numbers"),  # type: ignore[arg-type]
    (lambda: kernels.elect_signs([X], [np.nan]), r"weights\[0\]: found nan, expected a finite num"),
    (lambda: kernels.elect_signs([X], [1e39]), r"weights\[0\]: found 1e\+39, expected a finite"),
    (lambda: kernels.elect_signs([X], [10**400]), r"weights\[0\]: found 1000.*expected a finite"),
    (lambda: kernels.elect_signs([X], vote="cuont"), "vote 'cuont' .* did you mean 'count'"),
    (lambda: kernels.elect_signs([X], zero="positiv"), "zero 'positiv' .* did you mean 'positive'"),
    (lambda: kernels.disjoint_merge([X], [1, 1, 1]), "signs: found list, expected .* int8"),  # type: ignore[arg-type]
    (lambda: kernels.disjoint_merge([X], X), "signs: found float32, expected .* int8"),  # type: ignore[arg-type]
    (lambda: kernels.disjoint_merge([Y], SIGNS), r"signs: found shape \(3,\), expected .*\(2,\)"),
    (lambda: kernels.disjoint_merge([X], SIGNS, blend="maen"), "blend 'maen' .* mean 'mean'"),
    (lambda: kernels.ties(X, [Y], density=1), r"experts\[0\]: found shape \(2,\), .* base, \(3,\)"),
    (lambda: kernels.ties(X, [X, Y], density=1), r"experts\[1\]: found shape \(2,\)"),
    (lambda: kernels.ties(X, [X], density=2), "density: found 2, expected a finite number from 0"),
    (lambda: kernels.ties(X, [X], density=[1, 1]), "density: found 2 values, expected one"),
    (lambda: kernels.ties(X, [X], density=1, weights=[]), "weights: found 0 values, expected one"),
    (lambda: kernels.ties(X, [X], density=1, scale=np.inf), "scale: found inf, expected a finite"),
    (lambda: kernels.ties(X, [X], density=1, equal="firts"), "equal: 'firts' .*mean 'first'"),
    (lambda: kernels.ties(X, [X], density=1, semantics="papr"), "semantics 'papr' .*mean 'paper'"),
    (
        lambda: kernels.ties(X, [X], density=1, equal="first", semantics="mergekit"),
        "equal: ties has it only in paper semantics",
    ),
    (lambda: kernels.ties(X, [X], density=1, threads=0), "threads: found 0, expected a number"),
    (lambda: kernels.tall_mask(X, Y, 1), r"merged_delta: found shape \(2,\), .* expert_delta"),
    (lambda: kernels.tall_mask(X, X, -1), "lam: found -1, expected a finite number of 0 or more"),
    (lambda: kernels.tall_mask(X, X, np.inf), "lam: found inf, expected a finite number of 0"),
    (lambda: kernels.tall_mask(X, X, np.nan), "lam: found nan, expected a finite number of 0"),
    (lambda: kernels.consensus_mask([], 3, 1), "packed_masks: found 0 arrays, expected 1 to 256"),
    (
        lambda: kernels.consensus_mask([MASK, np.ones(2, np.uint8)], 3, 1),
        r"packed_masks\[1\]: found 2 bytes, expected 1 for 3 elements",
    ),
    (lambda: kernels.consensus_mask([MASK], 3, -1), "k: found -1, expected a whole number from 0"),
    (lambda: kernels.consensus_mask([MASK], -1, 1), "n: found -1, expected a whole number from 0"),
    (lambda: kernels.pack_bits([True]), "mask: found list, expected a NumPy array of bool"),  # type: ignore[arg-type]
    (lambda: kernels.pack_bits(MASK), "mask: found uint8, expected a NumPy array of bool"),  # type: ignore[arg-type]
    (lambda: kernels.unpack_bits(MASK, 9), "packed: found 1 bytes, expected 2 for 9 elements"),
    (lambda: kernels.unpack_bits(b"x", 8), "packed: found bytes, expected a packed mask"),  # type: ignore[arg-type]
    (lambda: kernels.unpack_bits(X, 24), r"packed: found float32 of shape \(3,\), expected"),  # type: ignore[arg-type]
    (lambda: kernels.apply_mask(X, Y, MASK), r"shared: found shape \(2,\), expected that of base"),
    (lambda: kernels.apply_mask(X, X, np.ones(2, np.uint8)), "packed: found 2 bytes, expected 1"),
    (lambda: kernels.apply_mask(X, X, MASK, np.nan), "scale: found nan, expected a finite number"),
    (lambda: kernels.gram([X, Y]), r"deltas\[1\]: found shape \(2,\), expected"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[text[:30] for _, text in REFUSED])
def test_arguments_are_refused_by_name_on_one_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_a_torch_tensor_is_told_where_to_go() -> None:
    import torch

    with pytest.raises(InputError, match=r"x: found Tensor, expected .*tallies\.torch"):
        kernels.trim(torch.ones(3), 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [kernels, masks], ids=lambda module: module.__name__)
def test_examples(module: Any) -> None:
    failed, attempted = doctest.testmod(module)
    assert failed == 0
    assert attempted >= 5
