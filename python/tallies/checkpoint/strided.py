"""Read a tensor whose elements do not lie end to end, in the order of its indices.

A tensor of a torch file may be a view: a transposed matrix, a convolution stored channels last, a
slice. Its elements are collected by position, a bounded block at a time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from operator import mul
from typing import Final, Literal

_BLOCK_BYTES: Final = 1 << 22
"""The most bytes of a block of elements in order, and of one read that fills the block."""

_WASTE: Final = 4
"""At most so many times the bytes that are needed are read, to read them at once."""

_PAGE_BYTES: Final = 1 << 12
"""Single elements this near to each other are read together, with the bytes between them."""

_FORMATS: Final[Mapping[int, Literal["B", "H", "I", "Q"]]] = {1: "B", 2: "H", 4: "I", 8: "Q"}

_Dimension = tuple[int, int, int]
"""Size, and the distance of neighbours in elements: in the file and in the block."""


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides, in elements, of a tensor whose elements lie end to end."""
    return tuple(accumulate(reversed(shape[1:]), mul, initial=1))[::-1] if shape else ()


def is_row_major(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Tell if a view's elements lie end to end in order; strides of single entries do not count."""
    if 0 in shape:
        return True
    expected = zip(shape, strides, row_major(shape), strict=True)
    return all(size == 1 or stride == plain for size, stride, plain in expected)


def span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many elements lie from the first to the last of a view; 0 for an empty one."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


class EndsEarly(Exception):
    """The file has fewer bytes than the view needs."""


def blocks(
    file: int, offset: int, shape: Sequence[int], strides: Sequence[int], item_bytes: int
) -> Iterator[bytearray]:
    """Yield the elements of a view in row-major order.

    Args:
        file: An open file's descriptor.
        offset: The byte of the file at which the view's first element begins.
        shape: The view's shape.
        strides: Distances of neighbours along each dimension, in elements.
        item_bytes: Bytes of an element: 1, 2, 4 or 8.

    Yields:
        Blocks of at most 4 MiB.

    Raises:
        EndsEarly: If the file has fewer bytes than the view needs.
        OSError: If the file cannot be read.
    """
    if 0 in shape:
        return
    n_inner, split = 1, len(shape)  # dimensions from `split` on lie within one block
    while split > 0 and n_inner * shape[split - 1] * item_bytes <= _BLOCK_BYTES:
        split -= 1
        n_inner *= shape[split]
    inner = list(zip(shape[split:], strides[split:], row_major(shape[split:]), strict=True))
    if split == 0:
        yield _block(file, offset, inner, item_bytes)
        return
    n_rows = max(1, _BLOCK_BYTES // (n_inner * item_bytes))
    rows, step = shape[split - 1], strides[split - 1]
    for first in _indices(shape[: split - 1], strides[: split - 1]):
        for row in range(0, rows, n_rows):
            here = (min(n_rows, rows - row), step, n_inner)
            begin = offset + (first + row * step) * item_bytes
            yield _block(file, begin, [here, *inner], item_bytes)


def _indices(shape: Sequence[int], strides: Sequence[int]) -> Iterator[int]:
    """Yield the offsets of a view's elements in row-major order."""
    index = [0] * len(shape)
    while True:
        yield sum(i * stride for i, stride in zip(index, strides, strict=True))
        for d in reversed(range(len(shape))):
            index[d] += 1
            if index[d] < shape[d]:
                break
            index[d] = 0
        else:
            return


def _block(file: int, offset: int, dimensions: list[_Dimension], item_bytes: int) -> bytearray:
    """Collect one block, from the dimensions that lie farthest apart in the file inwards."""
    out = bytearray(math.prod(size for size, _, _ in dimensions) * item_bytes)
    view = memoryview(out).cast(_FORMATS[item_bytes])
    ordered = sorted((d for d in dimensions if d[0] > 1), key=lambda d: -d[1])
    _fill(file, offset, ordered, view, 0)
    return out


def _fill(file: int, offset: int, dimensions: list[_Dimension], out: memoryview, at: int) -> None:
    """Read the stretches that hold a block's elements, long ones with what lies between them."""
    item_bytes = out.itemsize
    n_needed = math.prod(size for size, stride, _ in dimensions if stride)
    n_span = 1 + sum((size - 1) * stride for size, stride, _ in dimensions)
    if n_span <= min(_WASTE * n_needed, _BLOCK_BYTES // item_bytes):
        data = memoryview(_read(file, offset, n_span * item_bytes)).cast(_FORMATS[item_bytes])
        _scatter(data, dimensions, out, at)
        return
    (size, stride, step), *rest = dimensions
    if rest or stride * item_bytes > _PAGE_BYTES:
        for i in range(size):
            _fill(file, offset + i * stride * item_bytes, rest, out, at + i * step)
        return
    n_each = _BLOCK_BYTES // _PAGE_BYTES
    for i in range(0, size, n_each):
        n = min(n_each, size - i)
        begin = offset + i * stride * item_bytes
        data = memoryview(_read(file, begin, ((n - 1) * stride + 1) * item_bytes))
        _scatter(data.cast(_FORMATS[item_bytes]), [(n, stride, step)], out, at + i * step)


def _read(file: int, offset: int, n_bytes: int) -> bytearray:
    data = bytearray(n_bytes)
    view = memoryview(data)
    while view:
        n = os.preadv(file, [view], offset + n_bytes - len(view))
        if not n:
            raise EndsEarly
        view = view[n:]
    return data


def _scatter(data: memoryview, dimensions: list[_Dimension], out: memoryview, at: int) -> None:
    """Put elements where they belong; the longest dimension is copied at once."""
    movable = [i for i, (_, stride, _) in enumerate(dimensions) if stride]
    if not movable:
        for n in _indices([size for size, _, _ in dimensions], [step for _, _, step in dimensions]):
            out[at + n] = data[0]
        return
    longest = max(movable, key=lambda i: dimensions[i][0])
    size, stride, step = dimensions[longest]
    others = dimensions[:longest] + dimensions[longest + 1 :]
    sizes = [one for one, _, _ in others]
    begins = _indices(sizes, [one for _, one, _ in others])
    places = _indices(sizes, [one for _, _, one in others])
    for begin, place in zip(begins, places, strict=True):
        target = slice(at + place, at + place + (size - 1) * step + 1, step)
        out[target] = data[begin : begin + (size - 1) * stride + 1 : stride]
