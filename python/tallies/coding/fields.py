"""The fields that elements are split into before they are coded."""

from __future__ import annotations

import enum
from typing import Final

BLOCK: Final = 65536
"""Elements that are coded together, and decoded without others."""


class Fields(enum.IntEnum):
    """How the bits of an element become bytes, as ``tallies::Fields``.

    Byte p of every element of a block is plane p, the lowest first. With a base, the bits are those
    of ``x ^ base``, or of ``x - base`` modulo the number of patterns.
    """

    BYTES = 0
    """The bytes of the pattern as they are."""
    FLOAT = 1
    """The bytes of the pattern turned left by one bit: the exponent is one byte, or begins one."""
    DIFFERENCE = 2
    """The bytes of the number 0, 1, 2, 3, 4 for a difference of 0, -1, 1, -2, 2, and so on."""
