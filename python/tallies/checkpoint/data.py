"""Read stored bytes by chunks and compare them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from io import FileIO

from ..errors import StorageError
from ..spec.dtypes import DTYPES
from .changes import Change, face, pieces
from .row_maps import Gathered
from .strided import EndsEarly, blocks, row_major
from .tensors import Scale, TensorInfo

# Large enough that calls cost nothing beside the copy, small enough for the cache. The first are
# smaller: tensors that differ mostly do so at once. Multiples of 64.
_FIRST_CHUNK_BYTES = 1 << 12
_CHUNK_BYTES = 1 << 20


def chunks(tensor: TensorInfo) -> Iterator[bytearray]:
    """Yield the stored bytes of a tensor in row-major order, a bounded piece at a time.

    The pieces of two tensors of one size have the same sizes, whatever their strides. The scale of
    a scaled tensor is not applied. A tensor in other rows has the stored bytes of its own rows, and
    zeros for all others.

    Raises:
        StorageError: If the bytes cannot be read.
    """
    with _opened(tensor) as file:
        yield from _read(file, tensor)


def whole(tensor: TensorInfo) -> bytearray:
    """Return the stored bytes of a tensor in one piece, which is read where it stays.

    Raises:
        StorageError: If the bytes cannot be read.
    """
    if tensor.gathered is not None or tensor.strides is not None or not tensor.n_bytes:
        return bytearray().join(chunks(tensor))
    with _opened(tensor) as file:
        return next(_read_row_major(file, tensor, (tensor.n_bytes,)))


@contextlib.contextmanager
def _opened(tensor: TensorInfo) -> Iterator[FileIO]:
    try:
        with open(tensor.path, "rb", buffering=0) as file:
            yield file
    except EndsEarly:
        raise StorageError(
            f"{tensor.path}: tensor {tensor.name!r} ends early; the file was truncated while being "
            "read"
        ) from None
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{tensor.path}: cannot be read: {error.strerror}") from None


def read_range(tensor: TensorInfo, first: int, n_bytes: int) -> bytearray:
    """Return ``n_bytes`` stored bytes of a tensor, from byte ``first`` of its elements in order on.

    For a matrix with strides, the range is of whole rows.

    Raises:
        StorageError: If the file cannot be read, or ends within the tensor.
    """
    item_bytes = DTYPES[tensor.dtype]
    if tensor.strides is None:
        part = replace(tensor, offset=tensor.offset + first, n_bytes=n_bytes)
    else:
        row_bytes = tensor.shape[-1] * item_bytes
        rows, step = range(first // row_bytes, (first + n_bytes) // row_bytes), 0
        if len(tensor.shape) > 1:
            step = tensor.strides[-2]
        part = replace(
            tensor,
            offset=tensor.offset + rows.start * step * item_bytes,
            shape=(len(rows), tensor.shape[-1]),
            n_bytes=n_bytes,
            strides=(step, tensor.strides[-1]),
        )
    return bytearray().join(chunks(part))


def _read(file: FileIO, tensor: TensorInfo) -> Iterator[bytearray]:
    if tensor.gathered is not None:
        rows = _read_gathered(file, tensor.gathered)
        return _even(rows, _stored_bytes(tensor.gathered))
    if tensor.strides is None:
        return _read_row_major(file, tensor, _piece_sizes(tensor.n_bytes))
    return _read_strided(file, tensor)


def _piece_sizes(n_bytes: int) -> Iterator[int]:
    size = _FIRST_CHUNK_BYTES
    while n_bytes:
        yield min(size, n_bytes)
        n_bytes -= min(size, n_bytes)
        size = min(2 * size, _CHUNK_BYTES)


def _read_row_major(file: FileIO, tensor: TensorInfo, sizes: Iterable[int]) -> Iterator[bytearray]:
    file.seek(tensor.offset)
    left = tensor.n_bytes
    for size in sizes:
        chunk = bytearray(size)
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


def _read_strided(file: FileIO, tensor: TensorInfo) -> Iterator[bytearray]:
    assert tensor.strides is not None
    item_bytes = DTYPES[tensor.dtype]
    read = blocks(file.fileno(), tensor.offset, tensor.shape, tensor.strides, item_bytes)
    yield from _even(read, tensor.n_bytes)


def _even(read: Iterator[bytearray], n_bytes: int) -> Iterator[bytearray]:
    """Yield the same bytes in pieces of the sizes that all tensors of so many bytes have."""
    ready = bytearray()
    for size in _piece_sizes(n_bytes):
        while len(ready) < size:
            ready += next(read)
        yield ready[:size]
        del ready[:size]


def _stored_bytes(gathered: Gathered) -> int:
    """Return the bytes of the rows as the source stores them."""
    source = gathered.source
    return gathered.rows.n_rows * math.prod(source.shape[1:]) * DTYPES[source.dtype]


def _read_gathered(file: FileIO, gathered: Gathered) -> Iterator[bytearray]:
    """Yield the stored bytes of the rows, of which neighbours are read together."""
    source, own = gathered.source, gathered.rows.own
    row_bytes = math.prod(source.shape[1:]) * DTYPES[source.dtype]
    most = max(_CHUNK_BYTES // max(row_bytes, 1), 1)
    first = 0
    while first < len(own):
        n, step = 1, own[first] >= 0
        while n < most and first + n < len(own) and own[first + n] == own[first] + step * n:
            n += 1
        yield _rows(file, source, own[first], n, row_bytes)
        first += n
    for first in range(0, gathered.rows.n_padding, most):
        yield bytearray(row_bytes * min(most, gathered.rows.n_padding - first))


def _rows(file: FileIO, source: TensorInfo, first: int, n_rows: int, row_bytes: int) -> bytearray:
    """Return stored rows; zeros where ``first`` is negative."""
    if first < 0:
        return bytearray(row_bytes * n_rows)
    strides = source.strides or row_major(source.shape)
    part = replace(
        source,
        offset=source.offset + first * strides[0] * DTYPES[source.dtype],
        shape=(n_rows, *source.shape[1:]),
        n_bytes=row_bytes * n_rows,
    )
    return bytearray().join(_read(file, part))


def same_tensor(a: TensorInfo, b: TensorInfo) -> bool:
    """Tell if two tensors have one dtype and hold the same bytes, scales and changes."""
    return same_form(a, b) and same_bytes(a, b)


def same_form(a: TensorInfo, b: TensorInfo) -> bool:
    """Tell if two tensors are read alike: by dtype, and by scales and changes they may have."""
    return a.dtype == b.dtype and _same_decoding(a, b)


def same_bytes(a: TensorInfo, b: TensorInfo) -> bool:
    """Tell if two tensors hold the same bytes, and the same scales and changes if any."""
    if not _same_decoding(a, b):
        return False
    if (a.path, a.offset, a.strides, a.n_bytes) == (b.path, b.offset, b.strides, b.n_bytes):
        return True  # such as a tensor that an adapter leaves as it is
    return a.n_bytes == b.n_bytes and all(x == y for x, y in zip(chunks(a), chunks(b), strict=True))


def _same_decoding(a: TensorInfo, b: TensorInfo) -> bool:
    return (
        _same_scales(a.scale, b.scale)
        and _same_changes(a.changes, b.changes)
        and _same_rows(a.gathered, b.gathered)
    )


def _same_rows(a: Gathered | None, b: Gathered | None) -> bool:
    if a is None or b is None or a is b:
        return a is b
    own, other = a.pieces(), b.pieces()
    return (
        a.rows.face() == b.rows.face()
        and len(own) == len(other)
        and all(map(same_tensor, own, other))
    )


def _same_changes(a: Sequence[Change], b: Sequence[Change]) -> bool:
    """Tell if changes do the same, by the bytes of their pieces where they lie apart."""
    if a == b:
        return True
    if [face(one) for one in a] != [face(one) for one in b]:
        return False
    pairs = zip(map(pieces, a), map(pieces, b), strict=True)
    return all(same_tensor(x, y) for own, other in pairs for x, y in zip(own, other, strict=True))


def _same_scales(a: Scale | None, b: Scale | None) -> bool:
    if a is None or b is None:
        return a is b
    blocks = (a.block_rows, a.block_columns)
    return blocks == (b.block_rows, b.block_columns) and same_tensor(a.tensor, b.tensor)
