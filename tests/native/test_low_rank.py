"""Products of two small factors added to a matrix: every instruction set, any shape, any stride."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies import _core
from tallies.kernels.arguments import place
from tests.reference.dtype import narrow
from tests.reference.low_rank_product import added
from tests.support import strategies
from tests.support.everywhere import assert_everywhere, assert_same_bits

Array = npt.NDArray[Any]


def added_by_kernel(x: Array, left: Array, right: Array, scale: float) -> Array:
    """Add to the upper left of a wider array, from the upper left of another."""
    rows, columns = x.shape
    wide = np.full((rows, columns + 3), 7, np.float32)
    wide[:, :columns] = x
    factor = np.ones((right.shape[0], columns + 5), right.dtype)
    factor[:, :columns] = right
    _, address, dtype = place(factor)
    shape = (rows, left.shape[1], address, dtype, columns + 5, columns)
    _core.low_rank(left.ctypes.data, *shape, scale, wide.ctypes.data, columns + 3)
    assert (wide[:, columns:] == 7).all()
    return narrow(wide[:, :columns], np.float32)


@given(st.data())
@settings(max_examples=60)
def test_every_bit(data: st.DataObject) -> None:
    """Sizes before, at and after the ends of registers, panels and waiting sums."""
    rows = data.draw(st.integers(1, 18) | st.sampled_from([63, 64, 65, 130]))
    rank = data.draw(st.integers(1, 17) | st.sampled_from([63, 64, 65, 129]))
    columns = data.draw(st.sampled_from([1, 7, 8, 15, 16, 17, 31, 32, 33, 65]))
    dtype = data.draw(st.sampled_from(strategies.KERNEL_DTYPES))
    x, left = (
        np.resize(data.draw(strategies.arrays(np.float32, 1)), shape)
        for shape in ((rows, columns), (rows, rank))
    )
    right = np.resize(data.draw(strategies.arrays(dtype, 1)), (rank, columns))
    scale = data.draw(st.sampled_from([1.0, -0.5, 0.37, 0.0, 2.0]))
    expected = narrow(added(x, left, right, scale), np.float32)
    assert_everywhere(lambda: added_by_kernel(x, left, right, scale), expected, x, left, right)


def one(*values: float) -> Array:
    return np.array([values], np.float32)


def test_order_of_the_sum(target: str) -> None:
    """Other orders, and a fused multiply-add, round to other numbers."""
    zero = one(0)
    left, right = one(1e8, 1, -1e8, 1 + 2**-12), one(1, 1, 1, 1 + 2**-12).T
    assert_same_bits(added_by_kernel(zero, left, right, 1.0), one(1 + 2**-11))
    # The exact product has 2**-24 as well, which is lost before it is added.
    small = added_by_kernel(one(-1 - 2**-11), one(1 + 2**-12), one(1 + 2**-12), 1.0)
    assert_same_bits(small, zero)


def test_no_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="rank"):
        _core.low_rank(0, 1, 0, 0, 0, 1, 1, 1.0, 0, 1)
