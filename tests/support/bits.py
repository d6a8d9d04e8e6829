"""Small float32 arrays, and comparison of arrays bit by bit, without the package."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

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
