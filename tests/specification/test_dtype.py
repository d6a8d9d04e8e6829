"""Elements narrow to the nearest value and widen without loss."""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.dtype import canonical_nan, narrow, widen
from tests.support import strategies
from tests.support.bits import Array, assert_same_bits, bits


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
        assert bits(result) == [canonical_nan(dtype)]
    else:
        sign = 1 << (8 * dtype.itemsize - 1) if np.signbit(value) else 0
        assert bits(result) == [expected + sign]


@pytest.mark.parametrize("dtype", strategies.DTYPES, ids=str)
def test_narrow_writes_one_nan(dtype: np.dtype[Any]) -> None:
    unsigned = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], np.uint32)
    narrowed = narrow(unsigned.view(np.float32), dtype)
    assert set(bits(narrowed)) == {canonical_nan(dtype)}
    assert np.isnan(narrowed.astype(np.float64)).all()


@given(strategies.dtypes().flatmap(strategies.arrays))
def test_narrow_undoes_widen(x: Array) -> None:
    wide = widen(x)
    if x.dtype != np.float64:
        finite = ~np.isnan(wide)
        assert_same_bits(narrow(wide, x.dtype)[finite], x[finite])
    assert_same_bits(narrow(narrow(wide, np.float64), np.float32), narrow(wide, np.float32))
