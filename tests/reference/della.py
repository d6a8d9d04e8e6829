"""DELLA: entries dropped at random, the smaller of a row more likely."""

from __future__ import annotations

import numpy as np

from .breadcrumbs import rows
from .dare import dropped, l1_factor
from .dtype import Array, Floats, ieee
from .random import N_NUMBERS, numbers
from .select import magnitude_bits


def ranks(delta: Array) -> Array:
    """Rank each entry in its row, 0 for the smallest magnitude; equal ones by their index."""
    order = np.argsort(magnitude_bits(rows(delta)), axis=1, kind="stable")
    return np.argsort(order, axis=1, kind="stable").reshape(delta.shape)


@ieee
def chances(delta: Array, density: float, epsilon: float) -> Floats:
    """Return the chances, density - epsilon + 2 epsilon rank / (row length - 1), in float32."""
    length = delta.shape[-1] if delta.ndim else 1
    if density in (0, 1) or length < 2:
        return np.full(delta.shape, density, np.float32)
    low, step = np.float32(density - epsilon), np.float32(2 * epsilon / (length - 1))
    return np.asarray(low + step * ranks(delta).astype(np.float32), np.float32)


@ieee
def drop(
    delta: Array, density: float, epsilon: float, key: int, rescale: str = "probability"
) -> Floats:
    """One expert's task vector in one tensor, thinned out and rescaled."""
    p = chances(delta, density, epsilon)
    drawn = numbers(key, delta.size).reshape(delta.shape)
    stays = drawn < (p.astype(np.float64) * N_NUMBERS).astype(np.int64)
    if rescale == "probability":
        kept = np.where(stays | np.isnan(delta), delta / p, np.float32(0))
        return np.asarray(kept, np.float32)
    factor = l1_factor(delta, dropped(delta, stays)) if rescale == "l1" else 1.0
    return dropped(delta, stays, factor)
