"""Makes the keys and chances of the random numbers of a merge."""

from __future__ import annotations

import hashlib

from .codes import CERTAIN


def key(seed: int, expert: int, tensor: str) -> int:
    """Return the 64-bit key of one expert's random numbers in one tensor.

    ``expert`` is its position: models in another order draw other numbers.

    >>> hex(key(0, 0, "model.norm.weight"))
    '0xd9eb81b5467bf65b'
    """
    text = seed.to_bytes(8, "little") + expert.to_bytes(8, "little") + tensor.encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def chance(probability: float) -> int:
    """Return how many of ``CERTAIN`` random numbers let an entry survive, rounded to nearest.

    >>> chance(0.0), chance(0.5), chance(1.0)
    (0, 536870912, 1073741824)
    """
    return round(probability * CERTAIN)
