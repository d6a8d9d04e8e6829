"""Products of small factors, on arrays and on tensors, against the reference."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import InputError, kernels
from tallies import torch as functions
from tallies.torch import products
from tests.reference.dtype import narrow
from tests.reference.low_rank_product import added
from tests.support import operators, strategies
from tests.support.everywhere import assert_everywhere
from tests.support.kernel_arrays import Array
from tests.support.strategies import KERNEL_DTYPES


@st.composite
def matrices(draw: st.DrawFn, rows: int, columns: int) -> Array:
    """Matrices of the kernels' types, some of them transposed in memory."""
    dtype = draw(st.sampled_from(KERNEL_DTYPES))
    x = np.resize(draw(strategies.arrays(dtype, 1)), (rows, columns))
    return np.asfortranarray(x) if draw(st.booleans()) else x


@given(st.data())
@settings(max_examples=60)
def test_low_rank(data: st.DataObject) -> None:
    rows, columns = data.draw(st.tuples(st.integers(0, 40), st.integers(0, 70)))
    rank = data.draw(st.integers(1, 9) | st.sampled_from([16, 65]))
    base, left, right = (
        data.draw(matrices(*shape)) for shape in ((rows, columns), (rows, rank), (rank, columns))
    )
    scale = data.draw(strategies.scales())
    expected = narrow(added(base, left, right, scale), base.dtype)
    assert_everywhere(lambda: kernels.low_rank(base, left, right, scale), expected, base)
    given_ = [operators.tensor_of(np.ascontiguousarray(x)) for x in (base, left, right)]
    if data.draw(st.booleans()):
        given_ = [x.T.contiguous().T for x in given_]
    x, b, a = given_
    operators.assert_everywhere(lambda: functions.low_rank(x, b, a, scale), expected)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_matrices_of_several_windows(dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(1)
    shapes = ((70, 5000), (70, 19), (19, 5000))
    base, left, right = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    expected = narrow(added(base, left, right, 0.3), dtype)
    assert_everywhere(lambda: kernels.low_rank(base, left, right, 0.3), expected)


M = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("factors", "scale", "message"),
    [
        ((M[0], M, M), 1.0, r"base: found shape \(3,\), expected a matrix"),
        ((M, M[:1], M), 1.0, r"left: found shape \(1, 3\), expected \[2, rank\]"),
        ((M, M[:, :0], M[:0]), 1.0, r"left: found shape \(2, 0\), expected \[2, rank\]"),
        ((M, M, M), 1.0, r"right: found shape \(2, 3\), expected .*\(3, 3\)"),
        ((M, M[:, :2], M.double()), 1.0, "right: found dtype float64, expected one of"),
        ((M, M[:, :2], M), float("inf"), "scale: found inf, expected a finite number"),
    ],
)
def test_tensors_that_are_refused(factors: Any, scale: float, message: str) -> None:
    base, left, right = factors
    with pytest.raises(InputError, match=message):
        functions.low_rank(base, left, right, scale)


def test_example_on_tensors() -> None:
    assert doctest.testmod(products) == (0, 1)
