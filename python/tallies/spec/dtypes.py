"""The element types of tensors: one table of names, codes and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DTYPES: Final[Mapping[str, int]] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of an element, by the name that safetensors gives the dtype."""

FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""The floating-point ones among ``DTYPES``."""

_OTHER_DTYPES: Final = ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64")

DTYPE_CODES: Final = {"F32": 0, "BF16": 1, "F16": 2, "F64": 3, "F8_E4M3": 4, "F8_E5M2": 5}
"""Safetensors names of the types that merge, as ``tallies::DType``."""

DTYPE_BYTES: Final = (4, 2, 2, 8, 1, 1)
"""Of one value, by code."""

DTYPE_OF_ARRAY: Final = {
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
"""Safetensors names by the names that numpy (with ml_dtypes) and torch give the same types."""

KERNEL_DTYPES: Final = ("float32", "float16", "bfloat16")
"""Numpy's names of the types that the kernels read and write without a detour."""
_DTYPES = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
_SHORT_DTYPES = {name.lower(): name for name in _DTYPES.values()} | {
    "fp16": "F16",
    "fp32": "F32",
    "fp64": "F64",
}

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

CODES_BY_SIZE = {DTYPES[dtype]: DTYPE_CODES[dtype] for dtype in ("F8_E4M3", "BF16", "F32", "F64")}
"""Codes of types that stand for all of their size in bytes, where bits are only moved."""
