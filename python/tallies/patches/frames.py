"""Codes entries with zstandard, and decodes them."""

from __future__ import annotations

from collections.abc import Sequence


def encode(data: memoryview, unit: int) -> tuple[bytes, Sequence[int]]:
    """Return an entry's bytes as frames, and the bytes of each frame.

    Args:
        data: The bytes of the entry.
        unit: The bytes of an element, which go to planes of their own.
    """
    raise NotImplementedError


def decode(stored: bytearray, sizes: bytearray, unit: int, n_bytes: int) -> bytes:
    """Return the bytes of an entry.

    Args:
        stored: The frames, and zeros behind them.
        sizes: The bytes of each frame as numbers of 32 bits, and zeros behind them.
        unit: The bytes of an element.
        n_bytes: The bytes that the entry must have.

    Raises:
        ValueError: The frames are damaged or make other bytes.
    """
    raise NotImplementedError
