"""The reference against values known by hand and against the definitions, element by element."""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.blend import disjoint_merge
from tests.reference.dtype import CANONICAL_NAN, narrow, widen
from tests.reference.elect import elect_signs
from tests.reference.gram import gram
from tests.reference.linear import linear
from tests.reference.masks import (
    apply_mask,
    consensus_mask,
    magnitude_mask,
    pack_bits,
    tall_mask,
    unpack_bits,
)
from tests.reference.model import flatten, float_names, split
from tests.reference.select import (
    keep,
    keep_mask,
    kth_magnitude,
    magnitude_bits,
    mergekit_keep,
    paper_threshold,
    trim,
)
from tests.reference.sums import in_order_sum
from tests.reference.task_arithmetic import task_arithmetic
from tests.reference.ties import ties, ties_model
from tests.support import strategies

Array = npt.NDArray[Any]

NAN, INF = np.nan, np.inf


def f32(*values: float | np.float32) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def column(*values: float) -> npt.NDArray[np.float32]:
    """One element of several experts, [N, 1]."""
    return f32(*values).reshape(-1, 1)


def bits(a: Array) -> list[int]:
    return [int(value) for value in a.view(f"u{a.dtype.itemsize}").ravel()]


def assert_same_bits(actual: Array, expected: Array) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert bits(actual) == bits(expected)


def merge_columns(*ys: float, density: float = 1.0, **options: Any) -> float:
    """TIES of one parameter that is 0 in the base."""
    return float(ties(f32(0), [f32(y) for y in ys], density, **options)[0])


# Toy models that tell the variants of the published methods apart.


def test_paper_keeps_one_entry_more_than_the_density_says() -> None:
    x = np.arange(1, 11, dtype=np.float32) / 10
    assert keep(x, 0.2).sum() == 3
    assert keep(x, 0.2, "first").sum() == 2
    assert mergekit_keep(x, 0.2).sum() == 2


def test_entries_equal_to_the_threshold_all_stay_or_the_first_ones_do() -> None:
    x = f32(2, 1, -2, 1, 2, 1, -2, 1, 2, 1)
    assert np.flatnonzero(keep(x, 0.3)).tolist() == [0, 2, 4, 6, 8]
    assert np.flatnonzero(keep(x, 0.3, "first")).tolist() == [0, 2, 4]
    assert np.flatnonzero(mergekit_keep(x, 0.3)).tolist() == [0, 2, 4]


def test_density_is_a_share_and_one_keeps_everything() -> None:
    x = f32(0, -0.0, 1e-45, NAN)
    assert paper_threshold(x, 1) is None
    assert keep(x, 1).all()
    assert keep(x, 1, "first").all()
    assert mergekit_keep(x, 1).all()


def test_cancellation_takes_the_sign_of_the_majority() -> None:
    base = np.zeros(4, np.float32)
    experts = [f32(1, -3, -3, -3), f32(-1, -3, -3, -3)]
    assert ties(base, experts, 1.0).tolist() == [-1, -3, -3, -3]
    assert ties(base, [-expert for expert in experts], 1.0).tolist() == [1, 3, 3, 3]
    assert ties(base, experts, 1.0, semantics="mergekit").tolist() == [1, -3, -3, -3]
    assert elect_signs(np.stack(experts), zero="drop").tolist() == [0, -1, -1, -1]


def test_cancellation_without_a_majority_is_negative() -> None:
    assert merge_columns(1, -1) == -1
    assert merge_columns(1, -1, semantics="mergekit") == 1
    assert elect_signs(column(1, -1), zero="negative").tolist() == [-1]
    assert elect_signs(column(1, -1), zero="drop").tolist() == [0]


def test_weights_multiply_and_only_mergekit_divides_by_them() -> None:
    assert merge_columns(1, 3) == 2
    assert merge_columns(1, 3, weights=[1, 3]) == 5
    assert merge_columns(1, 3, weights=[1, 3], semantics="mergekit") == 2.5
    assert merge_columns(1, 3, weights=[1, 3], semantics="mergekit", normalize=False) == 10
    assert disjoint_merge(column(1, 3), np.array([1], np.int8), blend="sum").tolist() == [4]


def test_weights_take_part_in_the_election() -> None:
    assert merge_columns(2, -1.5) == 2
    assert merge_columns(2, -1.5, weights=[1, 2]) == -3
    assert merge_columns(2, -1.5, weights=[1, 2], semantics="mergekit") == -1.5


def test_scope_model_wipes_the_small_tensor_and_scope_tensor_halves_both() -> None:
    large = np.arange(200, 300, dtype=np.float32)
    small = np.arange(1, 101, dtype=np.float32) / 128
    base = {"a": np.zeros(100, np.float32), "b": np.zeros(100, np.float32)}
    experts: list[dict[str, Array]] = [{"a": large, "b": small}]

    def survivors(**options: Any) -> list[int]:
        merged = ties_model(base, experts, 0.5, **options)
        return [int(np.count_nonzero(merged[name])) for name in ("a", "b")]

    assert survivors() == [100, 1]
    assert survivors(equal="first") == [100, 0]
    assert survivors(scope="tensor") == [51, 51]
    assert survivors(scope="tensor", equal="first") == [50, 50]
    assert survivors(semantics="mergekit") == [50, 50]


def test_tall_mask_compares_task_vectors_not_weights() -> None:
    assert unpack_bits(tall_mask(f32(0.1), f32(1), 0.4), 1).tolist() == [False]


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0, 6.0])
def test_tall_mask_is_strict(lam: float) -> None:
    x, m = f32(0, 1, 0), f32(0, 1, 1)
    assert unpack_bits(tall_mask(x, m, lam), 3).tolist() == [False, True, False]


# Edge cases.


def test_density_zero_gives_the_base_back() -> None:
    base, expert = f32(1, 2), f32(NAN, 5)
    rules: list[dict[str, Any]] = [{}, {"equal": "first"}, {"semantics": "mergekit"}]
    for options in rules:
        assert ties(base, [expert], 0.0, **options).tolist() == [1, 2]
    with pytest.raises(ValueError, match="density is 0"):
        paper_threshold(expert, 0)


def test_density_below_one_entry_keeps_the_largest_or_nothing() -> None:
    x = f32(1, -3, 3)
    assert keep(x, 0.1).tolist() == [False, True, True]
    assert keep(x, 0.1, "first").tolist() == [False, False, False]
    assert mergekit_keep(x, 0.1).tolist() == [False, True, False]


def test_threshold_of_zero_loses_nothing() -> None:
    x = f32(0, 0, 0, 0, 0, 0, 0, 0, 4, -0.0)
    assert paper_threshold(x, 0.2) == 0
    assert keep(x, 0.2).all()


def test_expert_equal_to_the_base_contributes_nothing() -> None:
    base = f32(1, 2, 3)
    assert ties(base, [base, f32(1, 4, 9)], 1.0).tolist() == [1, 4, 9]


def test_one_expert_at_full_density_is_the_expert() -> None:
    base, expert = f32(1, 2, 3), f32(1, -2, 7)
    assert ties(base, [expert], 1.0).tolist() == expert.tolist()
    assert ties(base, [expert], 1.0, [3], semantics="mergekit").tolist() == expert.tolist()


def test_weights_that_cancel_divide_by_one_in_mergekit_only() -> None:
    assert merge_columns(2, -2, weights=[1, -1], semantics="mergekit") == 4
    assert np.isinf(linear([f32(1), f32(0)], [1, -1])).all()


def test_nan_survives_wherever_it_is_kept() -> None:
    for semantics in ("paper", "mergekit"):
        assert np.isnan(merge_columns(1, NAN, 2, semantics=semantics))
        assert np.isnan(merge_columns(INF, -INF, semantics=semantics))
        assert merge_columns(INF, -1, semantics=semantics) == INF
    for blend in ("mean", "sum", "max", "weighted_mean"):
        merged = disjoint_merge(column(1, NAN), np.array([1], np.int8), blend=blend)
        assert bits(merged) == [CANONICAL_NAN["float32"]]


def test_nan_has_no_voice_in_the_vote() -> None:
    deltas = np.stack([f32(NAN, 1, -3, 1), f32(7, -1, -3, -1)])
    assert elect_signs(deltas).tolist() == [0, -1, -1, -1]
    assert elect_signs(deltas, vote="count").tolist() == [1, -1, -1, -1]


def test_every_nan_is_one_magnitude_above_infinity() -> None:
    payloads = np.array([0x7F800001, 0xFFFFFFFF, 0x7FC00000], np.uint32).view(np.float32)
    assert len(set(magnitude_bits(payloads).tolist())) == 1
    assert magnitude_bits(payloads)[0] > magnitude_bits(f32(-INF))[0]
    assert np.isnan(kth_magnitude(f32(-INF, NAN, 3), 1))
    assert kth_magnitude(f32(-INF, NAN, 3), 2) == INF
    assert keep(np.append(payloads, f32(INF)), 0.25).tolist() == [True, True, True, False]


def test_kth_magnitude_refuses_a_rank_outside_the_array() -> None:
    for k in (0, 3):
        with pytest.raises(ValueError, match=f"k is {k}, expected 1 to 2"):
            kth_magnitude(f32(1, 2), k)


def test_magnitude_mask_includes_the_threshold_and_nan() -> None:
    x = f32(1, -2, 0, NAN, INF, -3)
    assert unpack_bits(magnitude_mask(x, 2), 6).tolist() == [False, True, False, True, True, True]
    assert (
        unpack_bits(magnitude_mask(x, NAN), 6).tolist() == [False, False, False, True] + [False] * 2
    )


def test_bits_are_packed_from_the_least_significant() -> None:
    assert pack_bits([1, 0, 0, 0, 0, 0, 0, 0, 0, 1]).tolist() == [1, 2]


def test_consensus_counts_masks_and_leaves_the_padding_clear() -> None:
    packed = [pack_bits([1, 1, 0]), pack_bits([1, 0, 0])]
    results = [consensus_mask(packed, 3, k).tolist() for k in range(4)]
    assert results == [[0b111], [0b011], [0b001], [0]]


def test_sum_of_zeros_is_positive_zero() -> None:
    assert bits(in_order_sum(column(-0.0, -0.0))) == [0]


def test_sums_run_in_the_order_of_the_experts() -> None:
    big, small = f32(2**24), f32(1)
    assert linear([big, small, small], normalize=False).tolist() == [2**24]
    assert linear([small, small, big], normalize=False).tolist() == [2**24 + 2]


def test_product_and_sum_round_separately() -> None:
    fused = float(np.float32(0.3)) * float(np.float32(0.3) - np.float32(1)) + 1
    merged = ties(f32(1), [f32(0.3)], 1.0, scale=0.3)
    assert merged.tolist() == f32(0.78999996).tolist()
    assert merged.tolist() != f32(fused).tolist()
    assert merged == apply_mask(f32(1), f32(0.3) - 1, pack_bits([1]), 0.3)


def test_model_order_is_that_of_the_names_bytes() -> None:
    model = {"b": f32(4, 5), "a.10": f32(2), "a": f32(1), "a.9": f32(3), "\N{EURO SIGN}": f32(6)}
    assert flatten(model, float_names(model)).tolist() == [1, 2, 3, 4, 5, 6]
    assert keep_mask({"b": f32(1), "a": f32(1)}, 0.5, equal="first") == {"a": [True], "b": [False]}


def test_integer_tensors_are_copied_and_take_no_part() -> None:
    base = {"steps": np.array([9]), "flag": np.array(True), "w": f32(0, 0)}
    expert = {"steps": np.array([9]), "flag": np.array(True), "w": f32(1, 2)}
    merged = ties_model(base, [expert], 0.5, equal="first")
    assert merged["w"].tolist() == [0, 2]
    assert merged["steps"].tolist() == [9]
    assert merged["steps"] is not base["steps"]
    assert merged["flag"].dtype == np.bool_


def test_majority_is_the_models_or_the_tensors() -> None:
    base = {"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)}
    experts = [{"a": f32(1, 1), "b": f32(-1, -1, -1)}, {"a": f32(-1, 1), "b": f32(-1, -1, -1)}]
    assert ties_model(base, experts, 1.0)["a"].tolist() == [-1, 1]
    assert ties_model(base, experts, 1.0, scope="tensor")["a"].tolist() == [1, 1]


def test_each_expert_may_have_its_own_density() -> None:
    base, experts = np.zeros(2, np.float32), [f32(1, 2), f32(1, 2)]
    assert ties(base, experts, [0.5, 1.0], equal="first").tolist() == [1, 2]
    assert ties(base, experts, [0.5, 0.5], equal="first").tolist() == [0, 2]


def test_gram_is_the_matrix_of_inner_products() -> None:
    assert gram([f32(1, 2), f32(3, -1)]).tolist() == [[5, 1], [1, 10]]
    assert gram(f32(0.1).reshape(1, 1))[0, 0] == float(np.float32(0.1)) ** 2


# The definitions, one element at a time, in Python's own arithmetic.


@cache
def magnitudes_of(dtype: np.dtype[Any]) -> list[float]:
    """The values of the bit patterns 0, 1, ... up to the largest, and one step more: overflow."""
    unsigned = np.arange(2 ** (8 * dtype.itemsize - 1)).astype(f"u{dtype.itemsize}")
    finite = [float(value) for value in widen(unsigned.view(dtype)) if np.isfinite(value)]
    return [*finite, 2 * finite[-1] - finite[-2]]


@pytest.mark.parametrize("dtype", [d for d in strategies.DTYPES if d.itemsize < 4], ids=str)
@given(value=st.floats(width=32, allow_nan=False))
def test_narrow_picks_the_nearest_value_and_the_even_one_of_two(
    dtype: np.dtype[Any], value: float
) -> None:
    grid = magnitudes_of(dtype)
    overflow = len(grid) - 1
    above = bisect_left(grid, abs(value))
    neighbours = {min(max(i, 0), overflow) for i in (above - 1, above)}
    expected = min(neighbours, key=lambda i: (abs(grid[i] - abs(value)), i % 2))
    result = narrow(np.float32(value), dtype)
    if dtype.name == "float8_e4m3fn" and expected == overflow:
        assert bits(result) == [CANONICAL_NAN[dtype.name]]
    else:
        sign = 1 << (8 * dtype.itemsize - 1) if np.signbit(value) else 0
        assert bits(result) == [expected + sign]


@pytest.mark.parametrize("dtype", strategies.DTYPES, ids=str)
def test_narrow_writes_one_nan(dtype: np.dtype[Any]) -> None:
    unsigned = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], np.uint32)
    narrowed = narrow(unsigned.view(np.float32), dtype)
    assert set(bits(narrowed)) == {CANONICAL_NAN[dtype.name]}
    assert np.isnan(narrowed.astype(np.float64)).all()


@given(strategies.dtypes().flatmap(strategies.arrays))
def test_narrow_undoes_widen(x: Array) -> None:
    wide = widen(x)
    if x.dtype != np.float64:
        finite = ~np.isnan(wide)
        assert_same_bits(narrow(wide, x.dtype)[finite], x[finite])
    assert_same_bits(narrow(narrow(wide, np.float64), np.float32), narrow(wide, np.float32))


@given(strategies.arrays())
def test_magnitude_bits_order_like_magnitudes(x: Array) -> None:
    ordered = np.sort(np.abs(x))  # NaN last
    assert np.array_equal(np.sort(magnitude_bits(x)).view(np.float32), ordered, equal_nan=True)


@given(strategies.arrays(min_size=1), st.data())
def test_kth_magnitude_is_the_kth_of_the_sorted_ones(x: Array, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, x.size))
    assert np.array_equal(kth_magnitude(x, k), np.sort(np.abs(x))[::-1][k - 1], equal_nan=True)


@given(strategies.dtypes().flatmap(strategies.arrays), strategies.densities())
def test_trim_follows_the_rule_of_the_paper(x: Array, density: float) -> None:
    magnitudes = [INF if np.isnan(m) else float(m) for m in np.abs(widen(x))]
    k = int(len(magnitudes) * density)
    rank = [(bool(np.isnan(v)), m) for v, m in zip(widen(x), magnitudes, strict=True)]
    if density == 0:
        kept = [False for _ in rank]
    elif k >= len(rank):
        kept = [True for _ in rank]
    else:
        threshold = sorted(rank)[len(rank) - k - 1]
        kept = [r >= threshold for r in rank]
    trimmed = trim(x, density)
    for value, wide, stays in zip(trimmed, widen(x), kept, strict=True):
        assert_same_bits(value, narrow(wide if stays else 0.0, np.float32)[()])


@given(strategies.arrays(), strategies.densities())
def test_trim_first_keeps_exactly_k(x: Array, density: float) -> None:
    kept = keep(x, density, "first")
    k = min(x.size, int(x.size * density))
    order = sorted(range(x.size), key=lambda i: (-int(magnitude_bits(x)[i]), i))
    assert set(np.flatnonzero(kept)) == set(order[:k])
    assert set(np.flatnonzero(keep(x, density))) >= (set(order[:k]) if density > 0 else set())


@given(strategies.models(), strategies.densities(), st.sampled_from(["keep", "first"]))
def test_scope_model_selects_in_the_concatenation(
    models: strategies.Models, density: float, equal: str
) -> None:
    names = sorted(models.base)
    whole = np.concatenate([f32(), *(widen(models.base[name]).ravel() for name in names)])
    chosen = keep_mask(models.base, density, equal=equal)
    in_order = [bit for name in names for bit in chosen[name].ravel()]
    assert in_order == keep(whole, density, equal).tolist()
    assert all(chosen[name].shape == models.base[name].shape for name in names)


@given(strategies.models())
def test_split_undoes_flatten(models: strategies.Models) -> None:
    names = float_names(models.base)
    parts = split(flatten(models.base, names), models.base, names)
    assert parts.keys() == models.base.keys()
    for name, part in parts.items():
        assert_same_bits(part, widen(models.base[name]))


def vote_of(ys: list[np.float32], vote: str) -> np.float32:
    if vote == "count":
        return np.float32(sum(int(y > 0) - int(y < 0) for y in ys))
    total = np.float32(0)
    for y in ys:
        total = np.float32(total + y)
    return total


def blend_of(pairs: list[tuple[np.float32, np.float32]], sign: int, blend: str) -> np.float32:
    """The blend of one element from its (weight, entry) pairs."""
    if np.isnan(vote_of([y for _, y in pairs], "sum")):
        return np.float32(NAN)
    agreeing = [(w, y) for w, y in pairs if y * sign > 0]
    if not agreeing:
        return np.float32(0)
    total = vote_of([y for _, y in agreeing], "sum")
    if blend == "mean":
        return np.float32(total / np.float32(len(agreeing)))
    if blend == "weighted_mean":
        divisor = vote_of([w for w, _ in agreeing], "sum")
        return np.float32(total / divisor) if divisor != 0 else total
    if blend == "max":
        return max((y for _, y in agreeing), key=abs)
    return total


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(strategies.groups(max_size=40), st.data())
def test_election_and_blend_element_by_element(
    group: strategies.Group, data: st.DataObject
) -> None:
    deltas = np.stack(group.experts)
    weights = data.draw(strategies.weights(len(deltas)))
    vote = data.draw(st.sampled_from(["sum", "count"]))
    zero = data.draw(st.sampled_from(["majority", "positive", "negative", "drop"]))
    blend = data.draw(st.sampled_from(["mean", "sum", "max", "weighted_mean"]))
    factors = f32(*(weights or [1.0] * len(deltas)))
    elements = [
        [(w, np.float32(w * d)) for w, d in zip(factors, deltas[:, i], strict=True)]
        for i in range(deltas.shape[1])
    ]
    votes = [vote_of([y for _, y in pairs], vote) for pairs in elements]
    balance = sum(int(v > 0) - int(v < 0) for v in votes)
    policy = {"majority": 1 if balance > 0 else -1, "positive": 1, "negative": -1, "drop": 0}[zero]
    expected = [policy if v == 0 else 1 if v > 0 else -1 if v < 0 else 0 for v in votes]

    signs = elect_signs(deltas, weights, vote, zero)
    assert signs.dtype == np.int8
    assert signs.tolist() == expected
    merged = disjoint_merge(deltas, signs, weights, blend)
    blended = [blend_of(*pair, blend) for pair in zip(elements, expected, strict=True)]
    assert_same_bits(merged, narrow(f32(*blended), np.float32))


@given(strategies.models(), strategies.densities(), strategies.scales(), st.data())
def test_ties_of_a_model_is_the_composition_of_its_steps(
    models: strategies.Models, density: float, scale: float, data: st.DataObject
) -> None:
    weights = data.draw(strategies.weights(len(models.experts)))
    equal = data.draw(st.sampled_from(["keep", "first"]))
    names = sorted(models.base)
    with np.errstate(all="ignore"):
        wide = [
            np.concatenate([f32(), *(widen(model[name]).ravel() for name in names)])
            for model in (models.base, *models.experts)
        ]
        trimmed = np.stack([trim(expert - wide[0], density, equal) for expert in wide[1:]])
        merged = disjoint_merge(trimmed, elect_signs(trimmed, weights), weights)
        result = wide[0] + np.float32(scale) * merged
    actual = ties_model(models.base, models.experts, density, weights, scale, equal=equal)
    assert list(actual) == list(models.base)
    start = 0
    for name in names:
        tensor = models.base[name]
        part = result[start : start + tensor.size].reshape(tensor.shape)
        assert_same_bits(actual[name], narrow(part, tensor.dtype))
        start += tensor.size


@given(strategies.models(), strategies.densities(), st.sampled_from(["paper", "mergekit"]))
def test_scope_tensor_is_ties_of_each_tensor(
    models: strategies.Models, density: float, semantics: str
) -> None:
    actual = ties_model(models.base, models.experts, density, scope="tensor", semantics=semantics)
    for name, tensor in models.base.items():
        experts = [expert[name] for expert in models.experts]
        assert_same_bits(actual[name], ties(tensor, experts, density, semantics=semantics))


@given(strategies.groups(nonfinite=False), strategies.scales())
def test_task_arithmetic_of_one_expert(group: strategies.Group, scale: float) -> None:
    expert = group.experts[0]
    with np.errstate(all="ignore"):
        expected = group.base + np.float32(scale) * (expert - group.base)
    assert_same_bits(
        task_arithmetic(group.base, [expert], scale=scale), narrow(expected, np.float32)
    )


def test_task_arithmetic_divides_by_the_weights_when_asked() -> None:
    base, experts = f32(1), [f32(3), f32(7)]
    assert task_arithmetic(base, experts, [1, 3], 0.5).tolist() == [11]
    assert task_arithmetic(base, experts, [1, 3], 0.5, normalize=True).tolist() == [3.5]
    assert linear(experts, [1, 3]).tolist() == [6]
    assert linear(experts, [1, 3], normalize=False).tolist() == [24]


def test_output_has_the_bases_dtype_unless_told() -> None:
    base, expert = f32(1).astype(ml_dtypes.bfloat16), f32(1 + 2**-10)
    assert ties(base, [expert], 1.0).dtype == ml_dtypes.bfloat16
    assert ties(base, [expert], 1.0, out_dtype=np.float32).tolist() == [1 + 2**-10]
    merged = ties_model({"w": base}, [{"w": expert}], 1.0, out_dtype=np.float16)
    assert merged["w"].dtype == np.float16


@given(strategies.groups(min_experts=2, max_experts=2), st.floats(0, 2, width=32))
def test_tall_mask_element_by_element(group: strategies.Group, lam: float) -> None:
    x, m = group.experts
    with np.errstate(all="ignore"):
        expected = [
            abs(x[i]) > np.float32(np.float32(lam) * abs(np.float32(m[i] - x[i])))
            for i in range(x.size)
        ]
    packed = tall_mask(x, m, lam)
    assert packed.dtype == np.uint8
    assert packed.size == (x.size + 7) // 8
    assert [bool(packed[i // 8] >> (i % 8) & 1) for i in range(x.size)] == expected


@given(st.lists(st.booleans(), max_size=70))
def test_unpack_undoes_pack(mask: list[bool]) -> None:
    packed = pack_bits(mask)
    assert unpack_bits(packed, len(mask)).tolist() == mask
    assert sum(int(byte).bit_count() for byte in packed) == sum(mask)


@given(strategies.groups(ml_dtypes.bfloat16), strategies.scales(), st.data())
def test_apply_mask_adds_the_shared_vector_where_it_is_set(
    group: strategies.Group, scale: float, data: st.DataObject
) -> None:
    base, shared = group.base, group.experts[0]
    mask = data.draw(st.lists(st.booleans(), min_size=base.size, max_size=base.size))
    actual = apply_mask(base, shared, pack_bits(mask), scale)
    with np.errstate(all="ignore"):
        for i, chosen in enumerate(mask):
            added = np.float32(scale) * (np.float32(shared[i]) if chosen else np.float32(0))
            expected = narrow(np.float32(base[i]) + added, base.dtype)
            assert bits(actual[i : i + 1]) == bits(expected)


@given(strategies.groups(max_size=64, nonfinite=False))
def test_gram_is_symmetric_and_its_diagonal_the_squared_norms(group: strategies.Group) -> None:
    products = gram(group.experts)
    assert np.array_equal(products, products.T)
    for i, x in enumerate(group.experts):
        exact = sum(int(v * 2.0**149) ** 2 for v in x.astype(np.float64).tolist())
        assert products[i, i] == pytest.approx(exact / 2**298, rel=x.size * 2**-52, abs=0)
