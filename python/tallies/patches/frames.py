"""Codes the entries of parts with zstandard, and decodes them."""

from __future__ import annotations

from ..coding import Coded, Damaged, Fields, decode, encode, n_frames
from ..spec.dtypes import FLOATS
from .layout import filled


def fields_of(values: str, dtype: str) -> Fields:
    """Return how values are split: into bytes, or so that what they share comes together.

    Args:
        values: The kind of values.
        dtype: The dtype of the tensor.
    """
    if values == "difference":
        return Fields.DIFFERENCE
    return Fields.FLOAT if values == "new" and dtype in FLOATS else Fields.BYTES


def code(data: memoryview, unit: int, fields: Fields, threads: int) -> Coded:
    """Return an entry's bytes as frames, and the bytes of each frame.

    Args:
        data: The bytes of the entry.
        unit: The bytes of an element.
        fields: How elements are split.
        threads: The number of threads.

    Raises:
        InputError: The package zstandard is missing.
    """
    return encode(data, unit, fields, threads=threads)


def decoded(
    stored: memoryview, sizes: memoryview, n_bytes: int, unit: int, fields: Fields, threads: int
) -> bytearray:
    """Return the bytes of an entry.

    Args:
        stored: The frames, and zeros behind them.
        sizes: The bytes of each frame as numbers of 32 bits, and zeros behind them.
        n_bytes: The bytes that the entry must have.
        unit: The bytes of an element.
        fields: How elements are split.
        threads: The number of threads.

    Raises:
        Damaged: The frames are others.
        InputError: The package zstandard is missing.
    """
    n = n_frames(n_bytes // unit, unit)
    numbers = memoryview(sizes).cast("I")
    frames = sum(numbers[:n])
    if len(sizes) != filled(4 * n) or filled(frames) != len(stored) or any(stored[frames:]):
        raise Damaged(f"found {len(stored)} bytes of frames, expected {frames} in {n} frames")
    if not n_bytes:
        return bytearray()
    data = memoryview(stored)[:frames]
    found: bytearray = decode(data, numbers[:n], n_bytes // unit, unit, fields, threads=threads)
    return found
