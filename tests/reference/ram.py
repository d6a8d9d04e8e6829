"""RAM and RAM+: what one expert alone changed, amplified, and the mean of what several changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .dtype import Floats, Mask, ieee
from .sums import in_order_sum


def active(deltas: Floats, epsilon: float) -> Mask:
    """|x| > epsilon, both float32; NaN is active."""
    return np.asarray(~(np.abs(deltas) <= np.float32(epsilon)))


@ieee
def ram(deltas: Floats, epsilon: float = 1e-5, factors: Sequence[float] | None = None) -> Floats:
    """Return RAM's addition to the base, from task vectors [N, ...].

    The in-order sum of the active entries, each divided by their number; where one is active alone
    it is multiplied by its expert's factor, 1 without `factors`.
    """
    on = active(deltas, epsilon)
    n = on.sum(axis=0)
    boost = np.ones(len(deltas)) if factors is None else np.asarray(factors)
    column = boost.astype(np.float32).reshape(-1, *[1] * (deltas.ndim - 1))
    terms = np.where(n == 1, deltas * column, deltas / np.maximum(n, 1).astype(np.float32))
    return in_order_sum(np.where(on, terms, np.float32(0)))


@ieee
def amplifications(
    deltas: Floats, epsilon: float = 1e-5, r: float = 0.1, alpha: float = 0.2
) -> list[float]:
    """RAM+'s factor of each expert: 1 + r min(shared / alone, alpha), in float32.

    `shared` counts its active entries that others share, `alone` the others, at least epsilon, or
    1 where both are zero.
    """
    on = active(deltas, epsilon).reshape(len(deltas), -1)
    n = on.sum(axis=0)
    shared = (on & (n > 1)).sum(axis=1).astype(np.float32)
    alone = (on & (n == 1)).sum(axis=1).astype(np.float32)
    least = np.float32(epsilon) if np.float32(epsilon) > 0 else np.float32(1)
    rho = shared / np.where(alone > 0, alone, least)
    factor = np.float32(1) + np.float32(r) * np.minimum(rho, np.float32(alpha))
    return [float(one) for one in factor]
