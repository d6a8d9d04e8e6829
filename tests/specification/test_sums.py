"""Sums in the order of the experts: linear merges, task arithmetic and inner products."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from tests.reference.dtype import narrow
from tests.reference.gram import gram
from tests.reference.linear import linear
from tests.reference.sums import in_order_sum
from tests.reference.task_arithmetic import task_arithmetic
from tests.support import strategies
from tests.support.bits import assert_same_bits, bits, column, f32


def test_sum_of_zeros_is_positive_zero() -> None:
    assert bits(in_order_sum(column(-0.0, -0.0))) == [0]


def test_sums_run_in_the_order_of_the_experts() -> None:
    big, small = f32(2**24), f32(1)
    assert linear([big, small, small], normalize=False).tolist() == [2**24]
    assert linear([small, small, big], normalize=False).tolist() == [2**24 + 2]


def test_gram_is_the_matrix_of_inner_products() -> None:
    assert gram([f32(1, 2), f32(3, -1)]).tolist() == [[5, 1], [1, 10]]
    assert gram(f32(0.1).reshape(1, 1))[0, 0] == float(np.float32(0.1)) ** 2


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


@given(strategies.groups(max_size=64, nonfinite=False))
def test_gram_is_symmetric_and_its_diagonal_the_squared_norms(group: strategies.Group) -> None:
    products = gram(group.experts)
    assert np.array_equal(products, products.T)
    for i, x in enumerate(group.experts):
        exact = sum(int(v * 2.0**149) ** 2 for v in x.astype(np.float64).tolist())
        assert products[i, i] == pytest.approx(exact / 2**298, rel=x.size * 2**-52, abs=0)
