"""Packed masks: one bit per element, least significant bit first, row-major."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .dtype import Array, Mask, Packed, ieee, widen
from .select import reaches
from .task_arithmetic import add_to_base


def pack_bits(mask: npt.ArrayLike) -> Packed:
    """Element i becomes bit i % 8 of byte i // 8; the bits after the last element are 0."""
    return np.packbits(np.asarray(mask, np.bool_), bitorder="little")


def unpack_bits(packed: Packed, n: int) -> Mask:
    """The first `n` elements of a packed mask, as booleans [n]."""
    return np.unpackbits(packed, count=n, bitorder="little").astype(np.bool_)


def magnitude_mask(x: Array, threshold: float | np.float32) -> Packed:
    """Packed |x| >= threshold; NaN reaches every threshold, and only NaN reaches NaN."""
    return pack_bits(reaches(x, threshold))


@ieee
def tall_mask(expert_delta: Array, merged_delta: Array, lam: float) -> Packed:
    """Packed |x| > lam * |m - x|, strictly, in float32; false where either side is NaN.

    x is the expert's task vector and m the merged one, of the same shape.
    """
    x, m = widen(expert_delta), widen(merged_delta)
    return pack_bits(np.abs(x) > np.float32(lam) * np.abs(m - x))


def consensus_mask(packed_masks: Sequence[Packed], n: int, k: int) -> Packed:
    """Packed: which of the `n` elements at least `k` of the masks contain."""
    counts = np.zeros(n, np.int64)
    for packed in packed_masks:
        counts += unpack_bits(packed, n)
    return pack_bits(counts >= k)


def apply_mask(base: Array, shared: Array, packed: Packed, scale: float = 1.0) -> Array:
    """base + scale * (shared where the mask is set, +0 elsewhere), in the dtype and shape of base.

    The product and the sum are rounded in float32, the result once to the base's dtype.
    """
    mask = unpack_bits(packed, base.size).reshape(base.shape)
    return add_to_base(base, scale, np.where(mask, widen(shared), np.float32(0)))
