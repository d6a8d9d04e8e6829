"""DARE: entries dropped at random, the others scaled up."""

from __future__ import annotations

import math

import numpy as np

from .dtype import Array, Floats, Mask, ieee, widen
from .random import numbers, threshold


@ieee
def dropped(delta: Array, stays: Mask, factor: float | Floats = 1.0) -> Floats:
    """`factor * delta` where it stays or is NaN, +0 elsewhere."""
    wide = widen(delta)
    scaled = wide * np.asarray(factor, np.float32)
    return np.where(stays | np.isnan(wide), scaled, np.float32(0)).astype(np.float32)


def random_mask(delta: Array, density: float, key: int, first: int = 0) -> Mask:
    """Draw a mask in which each entry stays with probability `density`."""
    mask = numbers(key, delta.size, first) < threshold(density)
    return np.asarray(mask.reshape(delta.shape))


def l1_factor(delta: Array, survivors: Array) -> float:
    """sum |delta| / sum |survivors|; 1 where either is below 1e-7 or not finite."""
    sums = []
    for array in (delta, survivors):
        sizes = np.abs(widen(array)).astype(np.float64).ravel()
        sums.append(math.fsum(sizes) if np.isfinite(sizes).all() else math.inf)
    before, after = sums
    if min(sums) < 1e-7 or not math.isfinite(max(sums)):
        return 1.0
    return before / after


def drop(delta: Array, density: float, key: int, rescale: str = "probability") -> Floats:
    """One expert's task vector in one tensor, thinned out and rescaled."""
    stays = random_mask(delta, density, key)
    factor = 1.0
    if rescale == "probability" and density > 0:
        factor = 1 / density
    elif rescale == "l1":
        factor = l1_factor(delta, dropped(delta, stays))
    return dropped(delta, stays, factor)
