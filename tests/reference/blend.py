"""The blend: the entries that agree with the elected sign become one value."""

from __future__ import annotations

import numpy as np

from .dtype import Array, Floats, Signs, ieee, narrow
from .sums import Weights, entries, in_order_sum, weight_column


@ieee
def disjoint_merge(
    deltas: Array, signs: Signs, weights: Weights = None, blend: str = "mean"
) -> Floats:
    """One float32 value per element, [...], from `deltas` [N, ...] and their elected `signs` [...].

    With y = weight * delta, an entry agrees when y is not zero and has the elected sign. Over the
    agreeing entries, in the order of the experts:
    "sum": sum of y; "mean": sum of y / their number; "max": the y of largest magnitude;
    "weighted_mean": sum of y / sum of weights, where a divisor of exactly 0 counts as 1.
    If no y agrees the value is +0. If the in-order sum of all y is NaN, so is the value: a
    NaN entry, or +infinity with -infinity, never disappears.
    """
    ys = entries(deltas, weights)
    agree = ((ys > 0) & (signs > 0)) | ((ys < 0) & (signs < 0))
    agreeing = np.where(agree, ys, np.float32(0))
    merged = largest(agreeing) if blend == "max" else in_order_sum(agreeing)
    if blend == "mean":
        merged = merged / np.maximum(agree.sum(axis=0), 1).astype(np.float32)
    if blend == "weighted_mean":
        divisor = in_order_sum(np.where(agree, weight_column(weights, deltas), np.float32(0)))
        divisor[divisor == 0] = 1
        merged = merged / divisor
    return narrow(np.where(np.isnan(in_order_sum(ys)), np.float32(np.nan), merged), np.float32)


def largest(terms: Floats) -> Floats:
    """The term of largest magnitude along the first axis, +0 if there is none."""
    best = np.zeros(terms.shape[1:], np.float32)
    for term in terms:
        best = np.where(np.abs(term) > np.abs(best), term, best)
    return best
