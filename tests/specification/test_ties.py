"""TIES against values known by hand, and against the composition of its steps."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.blend import disjoint_merge
from tests.reference.dtype import CANONICAL_NAN, narrow, widen
from tests.reference.elect import elect_signs
from tests.reference.linear import linear
from tests.reference.masks import apply_mask, pack_bits
from tests.reference.select import paper_threshold, trim
from tests.reference.ties import ties, ties_model
from tests.support import strategies
from tests.support.bits import INF, NAN, Array, assert_same_bits, bits, column, f32


def merge_columns(*ys: float, density: float = 1.0, **options: Any) -> float:
    """TIES of one parameter that is 0 in the base."""
    return float(ties(f32(0), [f32(y) for y in ys], density, **options)[0])


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


def test_density_zero_gives_the_base_back() -> None:
    base, expert = f32(1, 2), f32(NAN, 5)
    rules: list[dict[str, Any]] = [{}, {"equal": "first"}, {"semantics": "mergekit"}]
    for options in rules:
        assert ties(base, [expert], 0.0, **options).tolist() == [1, 2]
    with pytest.raises(ValueError, match="density is 0"):
        paper_threshold(expert, 0)


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


def test_product_and_sum_round_separately() -> None:
    fused = float(np.float32(0.3)) * float(np.float32(0.3) - np.float32(1)) + 1
    merged = ties(f32(1), [f32(0.3)], 1.0, scale=0.3)
    assert merged.tolist() == f32(0.78999996).tolist()
    assert merged.tolist() != f32(fused).tolist()
    assert merged == apply_mask(f32(1), f32(0.3) - 1, pack_bits([1]), 0.3)


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


def test_output_has_the_bases_dtype_unless_told() -> None:
    base, expert = f32(1).astype(ml_dtypes.bfloat16), f32(1 + 2**-10)
    assert ties(base, [expert], 1.0).dtype == ml_dtypes.bfloat16
    assert ties(base, [expert], 1.0, out_dtype=np.float32).tolist() == [1 + 2**-10]
    merged = ties_model({"w": base}, [{"w": expert}], 1.0, out_dtype=np.float16)
    assert merged["w"].dtype == np.float16
