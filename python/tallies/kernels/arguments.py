"""Arguments of the functions on arrays: checked, and laid out as the native code reads them."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .._core import narrow, widen
from ..engine.codes import MAX_EXPERTS
from ..engine.files import Place
from ..errors import InputError
from ..messages import show, unknown
from ..spec.dtypes import DTYPE_CODES, DTYPE_OF_ARRAY, KERNEL_DTYPES

Array = npt.NDArray[Any]
"""float32, float16 or bfloat16 (``ml_dtypes.bfloat16``)."""
Deltas = Sequence[Array] | Array
"""Arrays of one shape, or one array [N, ...]."""
Weights = Sequence[float] | npt.NDArray[np.float32] | None
"""A finite number for each array; None for ones."""
Packed = npt.NDArray[np.uint8]
"""A packed mask: bit i % 8 of byte i // 8 is element i; [(n + 7) // 8]."""

LARGEST: Final = float(np.finfo(np.float32).max)


def array(name: str, value: object) -> Array:
    """Return an array in row-major order, as the kernels read it; a copy where it was not."""
    if not isinstance(value, np.ndarray):
        raise InputError(
            f"{name}: found {type(value).__name__}, expected a NumPy array of "
            f"{', '.join(KERNEL_DTYPES)}; tallies.torch takes tensors"
        )
    if value.dtype.name not in KERNEL_DTYPES or not value.dtype.isnative:
        raise InputError(
            f"{name}: found dtype {value.dtype}, expected one of {', '.join(KERNEL_DTYPES)}; "
            "convert it with astype"
        )
    return contiguous(value)


def contiguous(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the elements in row-major order and aligned; a copy where they were not."""
    return np.require(value, requirements=("C", "ALIGNED"))


def arrays(name: str, value: object, *, one_dtype: bool = True) -> list[Array]:
    """Return one array per expert, of equal shapes, from a sequence or one array [N, ...]."""
    rows = [array(f"{name}[{i}]", row) for i, row in enumerate(rows_of(name, value))]
    for i, row in enumerate(rows):
        same_shape(f"{name}[{i}]", row, f"{name}[0]", rows[0])
        if one_dtype and row.dtype != rows[0].dtype:
            raise InputError(
                f"{name}[{i}]: found dtype {row.dtype}, expected that of {name}[0], "
                f"{rows[0].dtype}; convert one of them"
            )
    return rows


def rows_of(name: str, value: object) -> list[Any]:
    """Return the items of a sequence, or of an array along its first axis: from 1 to 256."""
    rows: list[Any]
    if isinstance(value, np.ndarray) and value.ndim > 0:
        rows = [value[i, ...] for i in range(len(value))]
    elif isinstance(value, Sequence):
        rows = list(value)
    else:
        kind = "a 0-d array" if isinstance(value, np.ndarray) else type(value).__name__
        raise InputError(
            f"{name}: found {kind}, expected a sequence of arrays or an array [N, ...]"
        )
    if not 1 <= len(rows) <= MAX_EXPERTS:
        raise InputError(f"{name}: found {len(rows)} arrays, expected 1 to {MAX_EXPERTS}")
    return rows


def same_shape(name: str, value: Any, like_name: str, like: Any) -> None:
    """Raise InputError unless both arrays or tensors have one shape."""
    if value.shape != like.shape:
        raise InputError(
            f"{name}: found shape {tuple(value.shape)}, expected that of {like_name}, "
            f"{tuple(like.shape)}"
        )


def weights(value: object, n_experts: int) -> list[float]:
    """Return one finite number per expert; ones for None."""
    if value is None:
        return [1.0] * n_experts
    if not isinstance(value, Iterable):
        raise InputError(f"weights: found {show(value)}, expected {n_experts} numbers")
    found = list(value)
    if len(found) != n_experts:
        raise InputError(
            f"weights: found {len(found)} values, expected one for each of the {n_experts} arrays"
        )
    return [number(f"weights[{i}]", one) for i, one in enumerate(found)]


def number(name: str, value: object, low: float = -LARGEST, high: float = LARGEST) -> float:
    """Return a real number of a range, by default any that is finite in float32."""
    expected = "a finite number" if (low, high) == (-LARGEST, LARGEST) else _range(low, high)
    if not isinstance(value, bool) and isinstance(value, numbers.Real):
        try:
            found = float(value)
        except OverflowError:
            found = np.inf
        if low <= found <= high:
            return found
    raise InputError(f"{name}: found {show(value)}, expected {expected}")


def _range(low: float, high: float) -> str:
    if high >= LARGEST:
        return f"a{' finite' if high == LARGEST else ''} number of {low:g} or more"
    return f"a number from {low:g} to {high:g}"


def whole(name: str, value: object, low: int, high: int) -> int:
    """Return a whole number from ``low`` to ``high``."""
    try:
        found = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        found = None
    if found is None or not low <= found <= high:
        raise InputError(
            f"{name}: found {show(value)}, expected a whole number from {low} to {high}"
        )
    return found


def choice(name: str, value: object, known: Iterable[str]) -> str:
    """Return a word that is one of the known ones."""
    words = list(known)
    if not isinstance(value, str) or value not in words:
        raise InputError(f"{name} {unknown(value, words)}")
    return value


def packed(name: str, value: object, n: int) -> Packed:
    """Return a packed mask of ``n`` elements, in one piece of memory."""
    n_bytes = (n + 7) // 8
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 1:
        found = (
            f"{value.dtype} of shape {value.shape}"
            if isinstance(value, np.ndarray)
            else type(value).__name__
        )
        raise InputError(f"{name}: found {found}, expected a packed mask, uint8 of one dimension")
    if value.size != n_bytes:
        raise InputError(f"{name}: found {value.size} bytes, expected {n_bytes} for {n} elements")
    return contiguous(value)


def place(values: Array) -> Place:
    """Return the array as the native code takes it."""
    return (-1, values.ctypes.data, DTYPE_CODES[DTYPE_OF_ARRAY[values.dtype.name]])


def widened(values: Array) -> npt.NDArray[np.float32]:
    """Return the values in float32; the array itself where they are float32 already."""
    if values.dtype == np.float32:
        return values
    out = np.empty(values.shape, np.float32)
    _, address, dtype = place(values)
    widen(address, dtype, out.ctypes.data, values.size)
    return out


def narrowed(values: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> Array:
    """Return the values rounded once, every NaN canonical; float32 values change in place."""
    out: Array = values if dtype == np.float32 else np.empty(values.shape, dtype)
    _, address, code = place(out)
    narrow(values.ctypes.data, address, code, values.size)
    return out
