"""Planes of bytes: what is coded of elements, with a base or without."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .dtype import Array
from .sparse import bit_patterns

Planes = npt.NDArray[np.uint8]


def split(values: Array, fields: str, base: Array | None = None) -> Planes:
    """Byte p of every element is row p, the lowest first, [n_bytes of an element, n_elements].

    `fields` is "bytes" for the patterns as they are, "float" for patterns turned left by one bit,
    or "difference" for 0, 1, 2, 3, 4 in the place of a difference of 0, -1, 1, -2, 2 and so on.
    A base is taken off before: by exclusive or, or subtracted modulo the number of patterns.
    """
    bits = bit_patterns(values)
    top = bits.dtype.type(8 * bits.itemsize - 1)
    one = bits.dtype.type(1)
    other = np.zeros_like(bits) if base is None else bit_patterns(base)
    if fields == "difference":
        bits = bits - other
        bits = (bits << one) ^ (np.zeros_like(bits) - (bits >> top))
    else:
        bits = bits ^ other
        if fields == "float":
            bits = (bits << one) | (bits >> top)
    return bits[:, None].view(np.uint8).T.copy()


def join(planes: Planes, fields: str, base: Array | None = None) -> Array:
    """The patterns of elements whose planes these are, as unsigned integers, [n_elements]."""
    bits = np.ascontiguousarray(planes.T).view(f"u{len(planes)}")[:, 0]
    top = bits.dtype.type(8 * bits.itemsize - 1)
    one = bits.dtype.type(1)
    other = np.zeros_like(bits) if base is None else bit_patterns(base)
    if fields == "difference":
        return ((bits >> one) ^ (np.zeros_like(bits) - (bits & one))) + other
    if fields == "float":
        bits = (bits >> one) | (bits << top)
    return bits ^ other


def block_checks(content: Planes, block_bytes: int) -> npt.NDArray[np.uint32]:
    """32 bits for each block of a tensor's bytes, folded from the block's part of its fingerprint.

    The fingerprint has eight sums: of the words at one place of every stripe of 64 bytes, the
    product of the halves of word ^ key plus the word turned left by one bit.
    """
    mask, checks = (1 << 64) - 1, []
    for begin in range(0, content.size, block_bytes):
        block = content[begin : begin + block_bytes]
        words = np.zeros(-(-block.size // 64) * 64, np.uint8)
        words[: block.size] = block
        folded = 0
        for lane, column in enumerate(words.view(np.uint64).reshape(-1, 8).T):
            total = 0
            for stripe, word in enumerate(map(int, column), begin // 64):
                key = (stripe * 0xBF58476D1CE4E5B9 + (lane + 1) * 0x9E3779B97F4A7C15) & mask
                low, high = (word ^ key) & 0xFFFFFFFF, (word ^ key) >> 32
                total += low * high + ((word << 1 | word >> 63) & mask)
            folded = ((folded ^ (total & mask)) * 0x9E3779B97F4A7C15) & mask
            folded ^= folded >> 32
        checks.append(folded & 0xFFFFFFFF)
    return np.array(checks, np.uint32)
