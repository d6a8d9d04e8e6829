"""Magnitude masks: each task marks the largest entries of its own task vector."""

from __future__ import annotations

from collections.abc import Sequence

from .masks import pack_bits
from .select import keep_mask
from .tall import Masks, Vector


def masks(tasks: Sequence[Vector], density: float = 0.1) -> list[Masks]:
    """Mark where |x_t| reaches task t's TIES threshold at `density`, over all its tensors at once.

    With k = int(P * density) the threshold is the (P - k)-th smallest magnitude; all entries equal
    to it are marked, and NaN always. Density 1 marks everything, density 0 nothing.
    """
    return [{name: pack_bits(kept) for name, kept in keep_mask(x, density).items()} for x in tasks]
