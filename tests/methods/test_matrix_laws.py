"""The laws that hold for all methods of whole matrices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from tallies import InputError, merge_state_dicts, methods
from tests.support.matrices import MATRIX_METHODS, Array, assert_near, merged, task_matrices


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_experts_that_are_the_base_give_the_base(name: str) -> None:
    assert not merged(np.zeros((3, 6, 4), np.float32), name).any()


@pytest.mark.parametrize("name", MATRIX_METHODS)
@given(deltas=task_matrices())
def test_degenerate_matrices_give_finite_results(name: str, deltas: Array) -> None:
    options = {"steps": 3} if name in ("wudi", "doge") else {}
    assert np.isfinite(merged(deltas, name, **options)).all()


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_the_order_of_the_experts_changes_rounding_alone(name: str) -> None:
    rng = np.random.default_rng(5)
    deltas = rng.standard_normal((4, 30, 22)).astype(np.float32)
    one, other = merged(deltas, name), merged(deltas[[2, 0, 3, 1]], name)
    assert_near(one, other)


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_weights_multiply_the_task_vectors(name: str) -> None:
    rng = np.random.default_rng(6)
    deltas = rng.standard_normal((3, 8, 5)).astype(np.float32)
    options = {"density": 1.0} if name == "doge" else {}
    weights = np.float32([2, -1, 0.5])
    found = merged(deltas, name, weights=weights.tolist(), **options)
    assert np.array_equal(found, merged(deltas * weights[:, None, None], name, **options))


@pytest.mark.parametrize("name", MATRIX_METHODS)
def test_what_is_no_matrix_follows_the_rule_of_the_others(name: str) -> None:
    rng = np.random.default_rng(7)
    shapes = {"w": (6, 4), "head.w": (6, 4), "b": (5,), "s": (), "k": (2, 3, 4), "e": (0, 4)}
    base, one, other = (
        {n: rng.integers(-8, 9, shape).astype(np.float32) for n, shape in shapes.items()}
        for _ in range(3)
    )
    rules = {
        "mean": lambda n: (one[n] + other[n]) / 2,
        "sum": lambda n: one[n] + other[n] - base[n],
        "base": lambda n: base[n],
    }
    choices = methods.get(name).parameters()["others"].choices
    assert choices
    for choice in choices:
        found = merge_state_dicts(
            base, [one, other], method=name, others=choice, exclude="none, head"
        )
        for n in shapes:
            if n != "w":
                assert np.array_equal(found[n], rules[choice](n)), n
        assert not np.array_equal(found["w"], rules[choice]("w"))


@pytest.mark.parametrize("name", MATRIX_METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_an_error_or_spreads(name: str, value: float) -> None:
    rng = np.random.default_rng(8)
    base, *experts = ({"w": rng.standard_normal((4, 3)).astype(np.float32)} for _ in range(3))
    experts[1]["w"][2, 1] = value
    with pytest.raises(InputError, match="expert 1: tensor 'w' has 1 NaN or infinite values"):
        merge_state_dicts(base, experts, method=name)
    found = merge_state_dicts(base, experts, method=name, nonfinite="propagate")
    assert np.isnan(found["w"]).all()


@pytest.mark.parametrize("name", ["iso_c", "iso_cts"])
def test_a_sum_that_overflows_is_an_error(name: str) -> None:
    base = {"w": np.zeros((2, 2), np.float32)}
    expert = {"w": np.full((2, 2), 3e38, np.float32)}
    with pytest.raises(InputError, match="merged values overflow"):
        merge_state_dicts(base, [expert, expert], method=name)
