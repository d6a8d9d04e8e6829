"""Round, read and add Python numbers as float32."""

from __future__ import annotations

import struct
from collections.abc import Sequence

LARGEST = float.fromhex("0x1.fffffep127")
"""The largest finite float32."""


def float32(x: float) -> float:
    """Return the nearest float32, an infinity beyond the largest finite one."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", x))[0])
    except OverflowError:
        return float("inf") if x > 0 else float("-inf")


def float_of(bits: int) -> float:
    """Return the float32 with this bit pattern."""
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def bits_of(x: float) -> int:
    """Return the bit pattern of the nearest float32."""
    return int(struct.unpack("<I", struct.pack("<f", x))[0])


def float32_sum(values: Sequence[float]) -> float:
    """Return the float32 sum in order, each value rounded first, as the kernels add values."""
    total = 0.0
    for value in values:
        total = float32(total + float32(value))
    return total
