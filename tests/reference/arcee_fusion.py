"""Arcee Fusion: the entries whose importance is far above that of most others."""

from __future__ import annotations

import math

import numpy as np

from .dtype import Array, Floats, Mask, ieee, narrow, widen


@ieee
def divergences(x: Floats, base: Floats) -> Floats:
    """sum p log(p / q) of each row along the last dimension, in float64, at least 0; float32."""

    def softmax(rows: Floats) -> np.ndarray:
        wide = rows.astype(np.float64)
        powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True) + 1e-8

    p, q = softmax(x), softmax(base)
    found = (p * np.log(p / q)).sum(axis=-1, keepdims=True)
    return np.where(found < 0, 0, found).astype(np.float32)


@ieee
def importances(x: Floats, base: Floats) -> Floats:
    """|x - base| times the divergence of the row."""
    rows = x.reshape(1) if x.ndim == 0 else x, base.reshape(1) if x.ndim == 0 else base
    return (np.abs(rows[0] - rows[1]) * divergences(*rows)).reshape(x.shape)


@ieee
def threshold(values: Floats) -> np.float32:
    """q2 + 1.5 (q3 - q1), the quartile q of n numbers the int(q (n - 1))-th from the smallest."""
    order = np.sort(values, axis=None)
    q1, q2, q3 = (order[math.floor(q * (order.size - 1))] for q in (0.25, 0.5, 0.75))
    return np.float32(q2 + np.float32(1.5) * (q3 - q1))


def taken(x: Floats, base: Floats) -> Mask:
    """The entries that are taken over."""
    found = importances(x, base)
    return np.asarray(found >= threshold(found)) if x.size else np.ones(x.shape, np.bool_)


@ieee
def arcee_fusion(base: Array, expert: Array) -> Array:
    """base + x - base where an entry is taken over, else base; in the base's dtype."""
    wide, x = widen(base), widen(expert)
    return narrow(wide + np.where(taken(x, wide), x - wide, np.float32(0)), base.dtype)
