"""Decodes scaled tensors to bytes of their decoded dtype, for results that copy them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .._core import Source, narrow
from ..checkpoint.data import chunks
from ..checkpoint.tensors import TensorInfo
from ..spec.dtypes import DTYPE_CODES, DTYPES
from .arrays import address_of
from .files import Scaled

_ELEMENTS = 1 << 18
"""Decoded at once, or the rows that share scales if these are more."""


def decoded_chunks(tensor: TensorInfo) -> Iterator[bytearray]:
    """Yield the bytes of a scaled tensor's values times scales, rounded once to its decoded dtype.

    Raises:
        StorageError: If the bytes cannot be read.
    """
    assert tensor.scale is not None
    values = bytearray()
    scales = bytearray().join(chunks(tensor.scale.tensor))
    code = DTYPE_CODES[tensor.decoded_dtype]
    stored = DTYPE_CODES[tensor.dtype]
    whole = Scaled(
        (-1, 0, stored),
        (-1, address_of(scales), DTYPE_CODES[tensor.scale.tensor.dtype]),
        *tensor.scale.rows_and_blocks(tensor),
    )
    n_each = max(_ELEMENTS // whole.grain, 1) * whole.grain
    pieces = chunks(tensor)
    for first in range(0, tensor.n_elements, n_each):
        n = min(n_each, tensor.n_elements - first)
        while len(values) < n:
            values += next(pieces)
        here = bytearray(values[:n])
        del values[:n]
        floats = bytearray(4 * n)
        stretch = replace(whole.moved(first), values=(-1, address_of(here), stored))
        stretch.native().decode(n_elements=n, threads=1, out=address_of(floats))
        out = bytearray(n * DTYPES[tensor.decoded_dtype])
        narrow(address_of(floats), address_of(out), code, n)
        yield out


def converted_chunks(tensor: TensorInfo, dtype: str) -> Iterator[bytearray]:
    """Yield the bytes of a tensor's values, widened to float32 and rounded once to a dtype.

    Raises:
        StorageError: If the bytes cannot be read.
    """
    code = DTYPE_CODES[tensor.dtype]
    for chunk in chunks(tensor):
        n = len(chunk) // DTYPES[tensor.dtype]
        floats, out = bytearray(4 * n), bytearray(n * DTYPES[dtype])
        source = Source.plain(values=(-1, address_of(chunk), code))
        source.decode(n_elements=n, threads=1, out=address_of(floats))
        narrow(address_of(floats), address_of(out), DTYPE_CODES[dtype], n)
        yield out


def unrounded(tensor: TensorInfo) -> TensorInfo:
    """Return a scaled tensor whose decoded dtype is float32, in which its values are exact."""
    assert tensor.scale is not None
    return replace(tensor, scale=replace(tensor.scale, decoded_dtype="F32"))
