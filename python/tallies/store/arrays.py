"""New arrays and tensors for what a store restores in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ..errors import InputError
from ..suggest import unknown

FRAMEWORKS: Final = ("numpy", "torch")

_NAMES: Final = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def new_array(name: str, dtype: str, shape: Sequence[int], framework: str) -> tuple[Any, int]:
    """An array or CPU tensor of this safetensors dtype, not initialised, and its address.

    bfloat16 and float8 arrays of NumPy need the ml_dtypes package; InputError without it.
    """
    if framework not in FRAMEWORKS:
        raise InputError(f"framework {unknown(framework, FRAMEWORKS)}")
    known = _NAMES.get(dtype)
    if known is None:
        raise InputError(
            f"tensor {name!r}: arrays of dtype {dtype} are not supported; unpack to disk"
        )
    if framework == "torch":
        import torch

        tensor = torch.empty(tuple(shape), dtype=getattr(torch, known))
        return tensor, tensor.data_ptr()
    import numpy as np

    if dtype == "BF16" or dtype.startswith("F8"):
        try:
            import ml_dtypes
        except ImportError:
            raise InputError(
                f"tensor {name!r} is {dtype}, which NumPy lacks; install ml_dtypes, or pass "
                "framework='torch'"
            ) from None
        array = np.empty(tuple(shape), getattr(ml_dtypes, known))
    else:
        array = np.empty(tuple(shape), known)
    return array, array.ctypes.data
