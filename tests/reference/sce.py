"""SCE: select where the experts differ most, weigh by energy, erase what disagrees."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

import numpy as np

from .dtype import Floats, Mask, ieee, narrow
from .elect import elect_signs
from .select import first_largest
from .sums import in_order_sum


@ieee
def variance(deltas: Floats) -> Floats:
    """The variance over the experts, [N, ...] to float32 [...].

    (N sum d^2 - (sum d)^2) / N^2 in float64 with d = x_t - x_1, in the order of the experts, the
    division by multiplication with 1 / N^2. Exactly zero where all are equal.
    """
    n = float(len(deltas))
    wide = deltas.astype(np.float64)
    total = np.zeros(deltas.shape[1:])
    squares = np.zeros(deltas.shape[1:])
    for x in wide:
        d = x - wide[0]
        total = total + d
        squares = squares + d * d
    value = (squares * n - total * total) * (1 / (n * n))
    return narrow(value.astype(np.float32), np.float32)


def selected(deltas: Floats, select_topk: float) -> Mask:
    """The int(n * select_topk) elements of largest variance, n having any, lowest index first.

    The product is float32. 1 keeps every element, 0 none.
    """
    if select_topk >= 1:
        return np.ones(deltas.shape[1:], np.bool_)
    variances = variance(deltas)
    n = int(np.count_nonzero(variances))
    k = int(np.float32(n) * np.float32(select_topk))
    return first_largest(variances, min(k, n))


@ieee
def shares(deltas: Floats, fallback: bool) -> list[float]:
    """The weight of each expert: its mean square over the sum of all, in float64, sums exact.

    All equal where the sum is zero, and with `fallback` where it is below 1e-6.
    """
    squares = [fsum_or_nan(x) / max(x.size, 1) for x in deltas]
    total = fsum_or_nan(np.array(squares), power=1)
    if total == 0 or (fallback and total < 1e-6):
        return [1 / len(deltas)] * len(deltas)
    return [one / total for one in squares]


def fsum_or_nan(x: Floats | Sequence[float], power: int = 2) -> float:
    """The exact sum of x^power, rounded once; infinite or NaN if a term is."""
    terms = np.asarray(x, np.float64).ravel() ** power
    return fsum(terms.tolist()) if np.isfinite(terms).all() else float(terms.sum())


@ieee
def sce(deltas: Floats, select_topk: float = 1.0, fallback: bool = False) -> Floats:
    """Return SCE's addition to the base, from task vectors [N, ...] of one tensor.

    The sum of w x over what agrees with the sign of the sum of x, positive if that is zero, over
    the sum of those w or 1e-6. NaN where that sum is.
    """
    kept = np.where(selected(deltas, select_topk), deltas, np.float32(0))
    weights = np.array(shares(kept, fallback), np.float32).reshape(-1, *[1] * (deltas.ndim - 1))
    sign = elect_signs(kept, zero="positive")
    agree = ((kept > 0) & (sign > 0)) | ((kept < 0) & (sign < 0))
    merged = in_order_sum(np.where(agree, kept * weights, np.float32(0)))
    divisor = in_order_sum(np.where(agree, weights, np.float32(0)))
    merged = merged / np.where(divisor < np.float32(1e-6), np.float32(1e-6), divisor)
    return np.asarray(np.where(np.isnan(in_order_sum(kept)), np.float32(np.nan), merged))
