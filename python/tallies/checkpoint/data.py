"""Reads stored bytes by chunks and compares them."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import StorageError
from .safetensors import TensorInfo

# Large enough that calls cost nothing beside the copy, small enough for the cache. The first are
# smaller: tensors that differ mostly do so at once. Multiples of 64.
_FIRST_CHUNK_BYTES = 1 << 12
_CHUNK_BYTES = 1 << 20


def chunks(tensor: TensorInfo) -> Iterator[bytearray]:
    """The bytes of a tensor, a bounded piece at a time; StorageError when they cannot be read."""
    try:
        with open(tensor.path, "rb", buffering=0) as file:
            file.seek(tensor.offset)
            left = tensor.n_bytes
            n_bytes = _FIRST_CHUNK_BYTES
            while left:
                chunk = bytearray(min(n_bytes, left))
                n_bytes = min(2 * n_bytes, _CHUNK_BYTES)
                view = memoryview(chunk)
                while view:
                    n = file.readinto(view)
                    if not n:
                        raise StorageError(
                            f"{tensor.path}: tensor {tensor.name!r} ends {left} bytes early; the "
                            "file was truncated while being read"
                        )
                    view = view[n:]
                yield chunk
                left -= len(chunk)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{tensor.path}: cannot be read: {error.strerror}") from None


def same_tensor(a: TensorInfo, b: TensorInfo) -> bool:
    """Whether two tensors have one dtype and hold the same bytes."""
    return a.dtype == b.dtype and same_bytes(a, b)


def same_bytes(a: TensorInfo, b: TensorInfo) -> bool:
    """Whether two tensors hold the same bytes."""
    return a.n_bytes == b.n_bytes and all(x == y for x, y in zip(chunks(a), chunks(b), strict=True))
