"""Number formats: every input is widened to float32, every result is rounded once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""Any floating-point format: of NumPy, and of ml_dtypes, such as bfloat16 and float8_e4m3fn."""
Floats = npt.NDArray[np.float32]
Signs = npt.NDArray[np.int8]
Mask = npt.NDArray[np.bool_]
Packed = npt.NDArray[np.uint8]

CANONICAL_NAN = {
    "float64": 0x7FF8_0000_0000_0000,
    "float32": 0x7FC0_0000,
    "bfloat16": 0x7FC0,
    "float16": 0x7E00,
    "float8_e4m3fn": 0x7F,
    "float8_e5m2": 0x7E,
}
"""The quiet positive NaN of formats that have stated it."""


def canonical_nan(dtype: npt.DTypeLike) -> int:
    """The bits of a format's quiet positive NaN: stated above, or those of its package."""
    target = np.dtype(dtype)
    if target.name in CANONICAL_NAN:
        return CANONICAL_NAN[target.name]
    return int(np.array(np.nan).astype(target).view(f"u{target.itemsize}"))


ieee = np.errstate(all="ignore")
"""Decorator: overflow, NaN and division by zero are values here, not warnings."""


@ieee
def widen(a: npt.ArrayLike) -> Floats:
    """The float32 values of `a`, as a new array of the same shape.

    Exact for every format but float64, which is rounded to nearest even. A signaling NaN of float16
    becomes a quiet one, as IEEE 754 has it; NumPy quiets it on some processors only.
    """
    values = np.asarray(a)
    wide = values.astype(np.float32)
    if values.dtype == np.float16:
        wide.view(np.uint32)[np.isnan(wide)] |= np.uint32(0x0040_0000)
    return wide


@ieee
def narrow(a: npt.ArrayLike, dtype: npt.DTypeLike) -> Array:
    """The float32 values of `a` rounded once to `dtype`, to nearest, ties to even.

    Too large a value becomes infinity, or NaN in float8_e4m3fn, which has no infinity. Every NaN is
    written as the format's quiet positive NaN, whatever its sign and payload were.
    """
    target = np.dtype(dtype)
    out = widen(a).astype(target)
    out.view(f"u{target.itemsize}")[np.isnan(widen(out))] = canonical_nan(target)
    return out


def promoted(arrays: Iterable[Array]) -> np.dtype[Any]:
    """Return the format in which torch adds these arrays; mergekit writes it where none is asked.

    The common format of all, else float64 if it is among them, else float32.
    """
    found = {array.dtype for array in arrays}
    if len(found) == 1:
        return found.pop()
    double = np.dtype(np.float64)
    return double if double in found else np.dtype(np.float32)
