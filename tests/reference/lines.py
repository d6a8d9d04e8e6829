"""LiNeS: the factor of the first layer from L1 norms over a whole model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .dtype import Floats, ieee
from .sums import Weights, entries, in_order_sum


@ieee
def alpha(deltas: Sequence[Floats], merged: Sequence[Floats], weights: Weights = None) -> float:
    """|sum_t w_t x_t|_1 / |m|_1 / N; 0 where m is zero.

    ``deltas`` are the task vectors x_t [N, ...] of each tensor and ``merged`` what becomes of them,
    m. Sums over elements are float64, in an order that is not part of the specification.
    """
    summed = sum(norm_of_sum(one, weights) for one in deltas)
    return summed / total / len(deltas[0]) if (total := sum(map(norm, merged))) else 0.0


@ieee
def norm_of_sum(deltas: Floats, weights: Weights = None) -> float:
    """|sum_t w_t x_t|_1 of one tensor, the sum in float32 in the order of the experts."""
    return norm(in_order_sum(entries(deltas, weights)))


def norm(x: Floats) -> float:
    """|x|_1 in float64."""
    return float(np.abs(x.astype(np.float64)).sum())
