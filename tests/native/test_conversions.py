"""All instruction sets convert elements to the bits of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies import _core, cpu
from tallies.spec.dtypes import DTYPE_BYTES, DTYPE_CODES
from tests.reference.dtype import narrow, widen
from tests.support import strategies
from tests.support.conversions import SMALL_DTYPES, every_pattern, native_narrow, native_widen
from tests.support.everywhere import assert_everywhere, assert_same_bits, on_every_target


def test_types_have_the_same_numbers_on_both_sides() -> None:
    names = [name.removeprefix("F8_").lower() for name in DTYPE_CODES]
    assert list(DTYPE_CODES.values()) == list(range(len(names)))
    assert list(zip(names, DTYPE_BYTES, strict=True)) == _core.dtypes()


@pytest.mark.parametrize("dtype", SMALL_DTYPES, ids=str)
def test_widen_every_pattern(dtype: np.dtype[Any]) -> None:
    x = every_pattern(dtype)
    expected = widen(x)
    results = on_every_target(lambda: native_widen(x))
    numbers = ~np.isnan(expected)
    for wide in results.values():
        assert_same_bits(wide[numbers], expected[numbers])
        assert np.isnan(wide[~numbers]).all()
        # Even the bits of NaN, which are not specified, do not depend on the instruction set.
        assert_same_bits(wide, results[cpu.target()])


@pytest.mark.parametrize("dtype", SMALL_DTYPES, ids=str)
def test_narrow_undoes_widen_for_every_pattern(dtype: np.dtype[Any]) -> None:
    x = every_pattern(dtype)
    assert_everywhere(lambda: native_narrow(native_widen(x), dtype), narrow(x, dtype), x)


def rounding_boundaries(dtype: np.dtype[Any]) -> npt.NDArray[np.float32]:
    """Every finite value of a small type, half way to its neighbour, and next to that, signed."""
    patterns = every_pattern(dtype)
    positive = widen(patterns[: patterns.size // 2])
    grid = positive[np.isfinite(positive)].astype(np.float64)
    grid = np.append(grid, 2 * grid[-1] - grid[-2])  # where overflow starts
    half = ((grid[1:] + grid[:-1]) / 2).astype(np.float32)
    assert np.array_equal(half.astype(np.float64), (grid[1:] + grid[:-1]) / 2)
    below, above = np.nextafter(half, np.float32(0)), np.nextafter(half, np.float32(np.inf))
    with np.errstate(over="ignore"):
        all_of_them = np.concatenate([grid.astype(np.float32), half, below, above])
    return np.concatenate([all_of_them, -all_of_them])


def extremes() -> npt.NDArray[np.float32]:
    """Around zero and infinity, and NaN of several signs and payloads."""
    unsigned = [0, 1, 2, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000]
    unsigned += [0x7FFFFFFF, 0x33000000, 0x33000001, 0x477FEFFF, 0x477FF000, 0x43E80000]
    words = np.array(unsigned, np.uint32)
    return np.concatenate([words, words | np.uint32(1 << 31)]).view(np.float32)


@pytest.mark.parametrize("dtype", SMALL_DTYPES, ids=str)
def test_narrow_around_every_rounding_boundary(dtype: np.dtype[Any]) -> None:
    x = np.concatenate([rounding_boundaries(dtype), extremes()])
    assert_everywhere(lambda: native_narrow(x, dtype), narrow(x, dtype), x)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float64)], ids=str)
def test_narrow_to_a_wide_type_changes_nan_alone(dtype: np.dtype[Any]) -> None:
    noise = np.frombuffer(np.random.default_rng(0).bytes(160_000), np.float32)
    x = np.concatenate([extremes(), noise])
    assert_everywhere(lambda: native_narrow(x, dtype), narrow(x, dtype), x)


def test_widen_from_float64_rounds_once_to_even() -> None:
    rng = np.random.default_rng(1)
    words = rng.integers(0, 2**31, 20_000, np.uint32)
    with np.errstate(invalid="ignore"):
        low = words.view(np.float32).astype(np.float64)
        high = (words + np.uint32(1)).view(np.float32).astype(np.float64)
        half = (low + high) / 2
        x = np.concatenate([half, np.nextafter(half, 0), np.nextafter(half, np.inf), -half])
    patterns = rng.integers(0, 2**64 - 1, 20_000, np.uint64).view(np.float64)
    edges = [0.0, -0.0, 5e-324, 1e-46, 7e-46, 7.1e-46, 3.4028235677973366e38, 3.5e38, 1e308]
    x = np.concatenate([x, patterns, np.array([*edges, np.inf, -np.inf])])
    numbers = ~np.isnan(x)
    results = on_every_target(lambda: native_widen(x))
    for wide in results.values():
        assert_same_bits(wide[numbers], widen(x[numbers]))
        assert np.isnan(wide[~numbers]).all()
        assert_same_bits(wide, results[cpu.target()])


@given(st.data(), strategies.dtypes())
def test_conversions_of_every_length(data: st.DataObject, dtype: np.dtype[Any]) -> None:
    x = data.draw(strategies.arrays(np.float32))
    assert_everywhere(lambda: native_narrow(x, dtype), narrow(x, dtype), x)
    y = data.draw(strategies.arrays(dtype, nonfinite=False))
    assert_everywhere(lambda: native_widen(y), widen(y), y)
