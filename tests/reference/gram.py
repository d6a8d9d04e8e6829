"""Inner products of the task vectors with one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .dtype import Array, ieee, widen


@ieee
def gram(deltas: Sequence[Array] | Array) -> npt.NDArray[np.float64]:
    """G[s, t] = sum of x_s * x_t over all elements, float64 [N, N].

    A product of two float32 values is exact in float64; only the sum rounds, in an order that is
    not part of the specification.
    """
    rows = [widen(delta).ravel().astype(np.float64) for delta in deltas]
    return np.array([[np.sum(x * y) for y in rows] for x in rows]).reshape(len(rows), len(rows))
