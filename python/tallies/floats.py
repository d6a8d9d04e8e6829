"""Numbers of float32 in Python."""

from __future__ import annotations

import struct
from collections.abc import Sequence

LARGEST = float.fromhex("0x1.fffffep127")
"""The largest finite number."""


def float32(x: float) -> float:
    """The nearest number of float32, infinity beyond the largest."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", x))[0])
    except OverflowError:
        return float("inf") if x > 0 else float("-inf")


def float_of(bits: int) -> float:
    """The number of this pattern."""
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def bits_of(x: float) -> int:
    """The pattern of the nearest number."""
    return int(struct.unpack("<I", struct.pack("<f", x))[0])


def float32_sum(values: Sequence[float]) -> float:
    """The sum in float32, in order, each value rounded first, as the kernels would add them."""
    total = 0.0
    for value in values:
        total = float32(total + float32(value))
    return total
