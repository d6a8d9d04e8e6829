"""Random numbers as a function of seed, expert, tensor and element."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

N_NUMBERS = 1 << 30
"""Random numbers are whole numbers below it, all equally likely."""


def key(seed: int, expert: int, tensor: str) -> int:
    """64 bits: the BLAKE2b digest of seed and expert, as eight bytes each, and the tensor's name.

    All integers are little-endian; `expert` counts from 0, in the order of the merge.
    """
    text = seed.to_bytes(8, "little") + expert.to_bytes(8, "little") + tensor.encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def numbers(key: int, n: int, first: int = 0) -> npt.NDArray[np.uint32]:
    """The random numbers of elements `first` to `first + n`, row-major.

    Two rounds of multiplication and shift over the low 32 bits of the element, with a half of the
    key before each; the high bits of the element change the key.
    """
    elements = np.arange(first, first + n, dtype=np.uint64)
    with np.errstate(over="ignore"):
        keys = np.uint64(key) + (elements >> np.uint64(32)) * np.uint64(0x9E3779B97F4A7C15)
        x = elements.astype(np.uint32) ^ keys.astype(np.uint32)
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x21F0AAAD)
        x = x ^ (x >> np.uint32(15)) ^ (keys >> np.uint64(32)).astype(np.uint32)
        x = x * np.uint32(0xD35A2D97)
    return np.asarray((x ^ (x >> np.uint32(15))) >> np.uint32(2), np.uint32)


def threshold(probability: float) -> int:
    """An event of this probability happens where the random number is below it."""
    return round(probability * N_NUMBERS)
