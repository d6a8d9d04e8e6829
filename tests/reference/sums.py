"""Entries of the experts and their sum, in the order of the experts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .dtype import Array, Floats, ieee, widen

Weights = Sequence[float] | npt.NDArray[np.float32] | None
"""One float32 factor per expert; None stands for all ones."""


def weight_column(weights: Weights, deltas: Array) -> Floats:
    """The weights of `deltas` [N, ...] as float32 [N, 1, ...], ready to multiply them."""
    column = np.ones(len(deltas)) if weights is None else np.asarray(weights)
    return widen(column).reshape(len(deltas), *[1] * (np.ndim(deltas) - 1))


@ieee
def entries(deltas: Array, weights: Weights = None) -> Floats:
    """y = weight * delta, float32 [N, ...], each product rounded."""
    return weight_column(weights, deltas) * widen(deltas)


@ieee
def in_order_sum(terms: Floats) -> Floats:
    """Sum over the first axis of `terms` [N, ...]: ((0 + t_1) + t_2) + ..., each addition rounded.

    The sum starts from +0, so a sum of zeros is +0 whatever their signs.
    """
    total = np.zeros(terms.shape[1:], np.float32)
    for term in terms:
        total = np.asarray(total + term)
    return total
