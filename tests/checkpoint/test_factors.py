"""Views of the factors of adapters have the elements that NumPy's views have."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies.checkpoint.adapters.factors import as_matrix, reshaped, transposed, turned
from tallies.checkpoint.changes import Product
from tallies.checkpoint.strided import row_major, span
from tallies.checkpoint.tensors import TensorInfo
from tallies.errors import InputError


def info(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> TensorInfo:
    return TensorInfo("a", "F32", shape, Path("x"), 0, 4 * math.prod(shape), strides)


def positions(tensor: TensorInfo) -> np.ndarray:
    """The places of a view's elements in the file, by index."""
    strides = tensor.strides or row_major(tensor.shape)
    file = np.arange(max(span(tensor.shape, strides), 1))
    return np.lib.stride_tricks.as_strided(file, tensor.shape, [8 * one for one in strides])


@st.composite
def views(draw: st.DrawFn) -> tuple[TensorInfo, tuple[int, ...]]:
    """A view of permuted or spaced dimensions, and a shape of as many elements."""
    factors = draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4))
    order = draw(st.permutations(range(len(factors))))
    step = draw(st.sampled_from([1, 2]))
    plain = row_major([factors[i] for i in order])
    strides = tuple(step * plain[order.index(i)] for i in range(len(factors)))
    tensor = info(tuple(factors), strides)
    sizes: list[int] = []
    left = tensor.n_elements
    while left > 1:
        size = draw(st.sampled_from([n for n in range(1, left + 1) if left % n == 0]))
        sizes.append(size)
        left //= size
    return tensor, tuple(draw(st.permutations(sizes)))


@given(views())
def test_a_view_in_another_shape_has_the_elements_in_order(
    case: tuple[TensorInfo, tuple[int, ...]],
) -> None:
    tensor, shape = case
    before = positions(tensor)
    expected = before.reshape(shape)
    try:
        found = reshaped(tensor, shape)
    except InputError:
        # NumPy had to copy, too: no strides make the same view.
        assert not np.shares_memory(before, expected)
        return
    assert found.shape == shape
    np.testing.assert_array_equal(positions(found), expected)


def test_stored_in_order_every_shape_is_a_view() -> None:
    tensor = info((4, 3, 2, 2), None)
    assert as_matrix(tensor) == info((4, 12), None)
    assert reshaped(tensor, (2, 24)) == info((2, 24), None)


def test_channels_last_is_refused_with_a_way_out() -> None:
    tensor = info((4, 3, 2, 2), (12, 1, 6, 3))
    with pytest.raises(InputError, match=r"'a' do not lie in order; .*merge_and_unload"):
        as_matrix(tensor)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3))
def test_a_turned_product_is_the_transposed_matrix(m: int, k: int, n: int, stack: int) -> None:
    extra = (stack,) if stack else ()
    left, right = info((*extra, m, k), None), info((*extra, k, n), None)
    found = turned(Product(left, right, 2.0))
    assert found.scale == 2.0
    np.testing.assert_array_equal(positions(found.left), np.swapaxes(positions(right), -1, -2))
    np.testing.assert_array_equal(positions(found.right), np.swapaxes(positions(left), -1, -2))
    assert positions(transposed(found.right)).tolist() == positions(left).tolist()
