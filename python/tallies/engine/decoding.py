"""Decodes tensors with scales or changes to bytes of a dtype, for results that copy them."""

from __future__ import annotations

from collections.abc import Iterator

from .._core import Limits, Plan, Source, narrow, read_delta
from ..checkpoint.data import chunks
from ..checkpoint.tensors import TensorInfo
from ..spec.dtypes import DTYPE_CODES, DTYPES
from .arrays import address_of
from .files import PlanFiles, grain_of, moved_operand, native

_ELEMENTS = 1 << 18
"""Decoded at once, or the rows that share scales if these are more."""

_LIMITS = Limits(1, 1 << 20)


def decoded_chunks(
    tensor: TensorInfo, dtype: str | None = None, *, first: int = 0
) -> Iterator[bytearray]:
    """Yield the bytes of a tensor's decoded values, from an element on, rounded once to a dtype.

    Args:
        tensor: A tensor with a scale or changes.
        dtype: The dtype of the bytes; None for the tensor's decoded dtype.
        first: The first element.

    Raises:
        StorageError: If the bytes cannot be read.
    """
    dtype = dtype or tensor.decoded_dtype
    code, n_bytes = DTYPE_CODES[dtype], DTYPES[dtype]
    files = PlanFiles(Plan(True))
    operand = files.operand(tensor)
    grain = grain_of(operand)
    n_each = max(_ELEMENTS // grain, 1) * grain
    for job, begin in enumerate(range(first // grain * grain, tensor.n_elements, n_each)):
        n = min(n_each, tensor.n_elements - begin)
        source = native(moved_operand(operand, begin))
        files.plan.add_job(n, [Source.zero(), source], [])
        floats, out = bytearray(4 * n), bytearray(n_bytes * n)
        address = address_of(floats)
        read_delta(plan=files.plan, job=job, expert=0, out=address, limits=_LIMITS)
        narrow(address, address_of(out), code, n)
        yield out[max(first - begin, 0) * n_bytes :]


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


def scaled_chunks(tensor: TensorInfo, factor: float, dtype: str) -> Iterator[bytearray]:
    """Yield the bytes of a tensor's values times a factor, in float32 and rounded once to a dtype.

    Raises:
        StorageError: If the bytes cannot be read.
    """
    import numpy as np

    if tensor.is_decoded:
        found = decoded_chunks(tensor, "F32")
    else:
        found = chunks(tensor) if tensor.dtype == "F32" else converted_chunks(tensor, "F32")
    for chunk in found:
        floats = np.frombuffer(chunk, np.float32)
        with np.errstate(over="ignore"):  # as where the engine rounds: to an infinity
            floats *= np.float32(factor)
        out = bytearray(floats.size * DTYPES[dtype])
        narrow(address_of(chunk), address_of(out), DTYPE_CODES[dtype], floats.size)
        yield out


def narrowed(floats: bytes, dtype: str) -> bytes:
    """Return the bytes of float32 values, rounded once to a dtype."""
    data, n = bytearray(floats), len(floats) // 4
    out = bytearray(n * DTYPES[dtype])
    narrow(address_of(data), address_of(out), DTYPE_CODES[dtype], n)
    return bytes(out)


def written_chunks(tensor: TensorInfo, dtype: str, factor: float = 1.0) -> Iterator[bytearray]:
    """Yield a tensor's values as bytes of a dtype: the stored bytes where nothing is computed.

    Raises:
        StorageError: If the bytes cannot be read.
    """
    if factor != 1.0:
        return scaled_chunks(tensor, factor, dtype)
    if tensor.is_decoded:
        return decoded_chunks(tensor, dtype)
    return chunks(tensor) if tensor.dtype == dtype else converted_chunks(tensor, dtype)
