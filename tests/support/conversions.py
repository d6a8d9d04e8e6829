"""The native conversions of elements, and every pattern of a small type."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tallies import _core
from tallies.spec.dtypes import DTYPE_CODES, DTYPE_OF_ARRAY
from tests.support.strategies import DTYPES, Array

SMALL_DTYPES = [dtype for dtype in DTYPES if dtype.itemsize <= 2]


def code(dtype: np.dtype[Any]) -> int:
    return DTYPE_CODES[DTYPE_OF_ARRAY[dtype.name]]


def native_widen(x: Array) -> npt.NDArray[np.float32]:
    out = np.empty(x.size, np.float32)
    _core.widen(x.ctypes.data, code(x.dtype), out.ctypes.data, x.size)
    return out


def native_narrow(x: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> Array:
    out = np.empty(x.size, dtype)
    _core.narrow(x.ctypes.data, out.ctypes.data, code(dtype), x.size)
    return out


def every_pattern(dtype: np.dtype[Any]) -> Array:
    """All bit patterns of a type of one or two bytes."""
    return np.arange(2 ** (8 * dtype.itemsize)).astype(f"u{dtype.itemsize}").view(dtype)
