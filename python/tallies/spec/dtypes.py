"""The element types of tensors: one table, and lookups in it.

A new type is a row here and, if the native code merges it, in csrc/core/dtype.h.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class DType:
    """One element type under all its names."""

    name: str
    """The name that safetensors gives it."""
    n_bytes: int
    """Bytes of an element; 1 where elements share bytes, which are what is stored then."""
    array_name: str
    """The name that numpy (or ml_dtypes) and torch give it; empty where no array holds it."""
    code: int | None = None
    """The number of ``tallies::DType``, for types that merge; None for types that are copied."""
    short_name: str = ""
    """A further spelling in recipes."""
    is_fused: bool = False
    """The kernels read and write the type without a detour through float32."""
    in_ml_dtypes: bool = False
    """NumPy itself lacks the type."""
    n_bits: int = 0
    """Bits of an element, where elements share bytes."""
    in_array: int = 1
    """Elements that are one of an array of torch."""
    is_opaque: bool = False
    """Values have no meaning here: bits are compared, copied and patched, and nothing more."""

    @property
    def is_float(self) -> bool:
        """Return whether tensors of the type merge, as floating-point numbers."""
        return self.code is not None


TABLE: Final = (
    DType("F64", 8, "float64", 3, "fp64"),
    DType("F32", 4, "float32", 0, "fp32", is_fused=True),
    DType("F16", 2, "float16", 2, "fp16", is_fused=True),
    DType("BF16", 2, "bfloat16", 1, is_fused=True, in_ml_dtypes=True),
    DType("F8_E4M3", 1, "float8_e4m3fn", 4, in_ml_dtypes=True),
    DType("F8_E5M2", 1, "float8_e5m2", 5, in_ml_dtypes=True),
    DType("I64", 8, "int64"),
    DType("I32", 4, "int32"),
    DType("I16", 2, "int16"),
    DType("I8", 1, "int8"),
    DType("U64", 8, "uint64"),
    DType("U32", 4, "uint32"),
    DType("U16", 2, "uint16"),
    DType("U8", 1, "uint8"),
    DType("BOOL", 1, "bool"),
    DType("C64", 8, "complex64", is_opaque=True),
    DType("F8_E4M3FNUZ", 1, "float8_e4m3fnuz", is_opaque=True, in_ml_dtypes=True),
    DType("F8_E5M2FNUZ", 1, "float8_e5m2fnuz", is_opaque=True, in_ml_dtypes=True),
    DType("F8_E8M0", 1, "float8_e8m0fnu", is_opaque=True, in_ml_dtypes=True),
    DType("F6_E2M3", 1, "", is_opaque=True, n_bits=6),
    DType("F6_E3M2", 1, "", is_opaque=True, n_bits=6),
    DType("F4", 1, "float4_e2m1fn_x2", is_opaque=True, n_bits=4, in_array=2),
)

_BY_CODE: Final = {one.code: one for one in TABLE if one.code is not None}
_MERGED: Final = tuple(_BY_CODE[code] for code in range(len(_BY_CODE)))

BY_NAME: Final[Mapping[str, DType]] = {one.name: one for one in TABLE}
"""All types, by the name that safetensors gives them."""

DTYPES: Final[Mapping[str, int]] = {one.name: one.n_bytes for one in TABLE}
"""Bytes of what is stored, by the name that safetensors gives the type; see ``n_stored``."""

OPAQUE: Final = frozenset(one.name for one in TABLE if one.is_opaque)
"""The types whose values have no meaning here."""

FLOATS: Final = frozenset(one.name for one in TABLE if one.is_float)
"""The floating-point types, which merge."""

FLOAT8: Final = frozenset(one.name for one in TABLE if one.is_float and one.n_bytes == 1)
"""The floating-point types of one byte, whose tensors may have scales."""

DTYPE_CODES: Final[Mapping[str, int]] = {one.name: code for code, one in enumerate(_MERGED)}
"""Numbers of ``tallies::DType``, by the name that safetensors gives the type."""

DTYPE_BYTES: Final = tuple(one.n_bytes for one in _MERGED)
"""Bytes of an element, by ``tallies::DType``."""

DTYPE_OF_ARRAY: Final[Mapping[str, str]] = {one.array_name: one.name for one in _MERGED}
"""Safetensors names of the types that merge, by the name that numpy and torch give them."""

KERNEL_DTYPES: Final = tuple(one.array_name for one in TABLE if one.is_fused)
"""Numpy's names of the types that the kernels read and write without a detour."""

CODES_BY_SIZE: Final[Mapping[int, int]] = {
    DTYPES[name]: DTYPE_CODES[name] for name in ("F8_E4M3", "BF16", "F32", "F64")
}
"""One ``tallies::DType`` for each size in bytes, for passes that only move bits."""

RECIPE_NAMES: Final = tuple(sorted(one.array_name for one in _MERGED))
"""The types of a result, as a recipe spells them."""

_SPELLINGS: Final = {
    spelling: one.name
    for one in TABLE
    for spelling in (one.array_name, one.name.lower(), one.short_name)
    if spelling
}


def n_stored(dtype: str, shape: Iterable[int]) -> int:
    """Count what a tensor stores: its elements, or bytes for a type whose elements share them.

    >>> n_stored("BF16", (2, 3)), n_stored("F4", (2, 3)), n_stored("F6_E2M3", (4,))
    (6, 3, 3)
    """
    n, bits = math.prod(shape), BY_NAME[dtype].n_bits
    return -(-n * bits // 8) if bits else n


def size_of(dtype: str, shape: Iterable[int]) -> int:
    """Return the bytes of a tensor, and of a last one that is not full."""
    return DTYPES[dtype] * n_stored(dtype, shape)


def fills_bytes(dtype: str, shape: Iterable[int]) -> bool:
    """Return whether a tensor is a whole number of bytes, without which it cannot be stored."""
    return math.prod(shape) * BY_NAME[dtype].n_bits % 8 == 0


def refusal(dtype: str, what: str) -> str:
    """Word that tensors of a type are copied, where they were to be merged or packed.

    >>> refusal("I64", "merged"), refusal("F4", "merged")
    ('integers are not merged', 'tensors of F4 are not merged (convert the models to BF16 first)')
    """
    if dtype in OPAQUE:
        return f"tensors of {dtype} are not {what} (convert the models to BF16 first)"
    return f"integers are not {what}"


def promoted(names: Iterable[str]) -> str:
    """Return the type in which torch adds values of these floating-point types.

    >>> promoted(["BF16", "BF16"]), promoted(["BF16", "F16"]), promoted(["F16", "F64"])
    ('BF16', 'F32', 'F64')
    """
    found = set(names)
    if len(found) == 1:
        return found.pop()
    return "F64" if "F64" in found else "F32"


def named(text: str) -> str | None:
    """Return the safetensors name of a type that a user spells, or None for another text.

    >>> named("float16"), named("BF16"), named("torch.float32"), named("fp64"), named("half")
    ('F16', 'BF16', 'F32', 'F64', None)
    """
    return _SPELLINGS.get(text.lower().removeprefix("torch."))
