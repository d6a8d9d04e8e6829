"""Reads stored bytes by chunks and compares them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

from ..errors import StorageError
from .safetensors import TensorInfo

# Large enough that calls cost nothing beside the copy, small enough for the cache. The first are
# smaller: tensors that differ mostly do so at once. Multiples of 64.
_FIRST_CHUNK_BYTES = 1 << 12
_CHUNK_BYTES = 1 << 20


def chunks(tensor: TensorInfo) -> Iterator[bytearray]:
    """Yield the bytes of a tensor, a bounded piece at a time.

    Raises:
        StorageError: The file cannot be read, or ends within the tensor.
    """
    with _opened(tensor) as file:
        at = 0
        n_bytes = _FIRST_CHUNK_BYTES
        while at < tensor.n_bytes:
            chunk = bytearray(min(n_bytes, tensor.n_bytes - at))
            n_bytes = min(2 * n_bytes, _CHUNK_BYTES)
            _fill(chunk, file, tensor, at)
            yield chunk
            at += len(chunk)


def read_range(tensor: TensorInfo, first: int, n_bytes: int) -> bytearray:
    """Return ``n_bytes`` bytes of a tensor, from its byte ``first`` on.

    Raises:
        StorageError: The file cannot be read, or ends within the tensor.
    """
    data = bytearray(n_bytes)
    with _opened(tensor) as file:
        _fill(data, file, tensor, first)
    return data


def same_tensor(a: TensorInfo, b: TensorInfo) -> bool:
    """Return whether two tensors have one dtype and hold the same bytes."""
    return a.dtype == b.dtype and same_bytes(a, b)


def same_bytes(a: TensorInfo, b: TensorInfo) -> bool:
    """Return whether two tensors hold the same bytes."""
    return a.n_bytes == b.n_bytes and all(x == y for x, y in zip(chunks(a), chunks(b), strict=True))


@contextlib.contextmanager
def _opened(tensor: TensorInfo) -> Iterator[io.FileIO]:
    """Open the file of a tensor; StorageError in place of an error of the system."""
    try:
        with open(tensor.path, "rb", buffering=0) as file:
            yield file
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{tensor.path}: cannot be read: {error.strerror}") from None


def _fill(data: bytearray, file: io.FileIO, tensor: TensorInfo, first: int) -> None:
    """Read bytes of a tensor, from its byte ``first`` on, until ``data`` is full."""
    file.seek(tensor.offset + first)
    view = memoryview(data)
    while view:
        n = file.readinto(view)
        if not n:
            raise StorageError(
                f"{tensor.path}: tensor {tensor.name!r} ends {tensor.n_bytes - first} bytes early; "
                "the file was truncated while being read"
            )
        view = view[n:]
