"""Task arithmetic: the base plus the scaled sum of the task vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .dtype import Array, Floats, ieee, narrow, widen
from .linear import linear
from .sums import Weights

EXAMPLES = ({}, {"scale": 0.3}, {"normalize": True, "scale": -0.5})
"""Parameters with which the method is compared with ``task_arithmetic``."""


@ieee
def task_vectors(base: Array, experts: Sequence[Array]) -> Floats:
    """expert - base, float32 [N, ...]."""
    return np.stack([widen(expert) - widen(base) for expert in experts])


@ieee
def add_to_base(
    base: Array, scale: float, merged: Floats, out_dtype: npt.DTypeLike | None = None
) -> Array:
    """base + scale * merged: the product rounded, the sum rounded, then once to the output's dtype.

    The dtype is `out_dtype`, by default that of the base.
    """
    total = widen(base) + np.float32(scale) * merged
    return narrow(total, base.dtype if out_dtype is None else out_dtype)


def task_arithmetic(
    base: Array,
    experts: Sequence[Array],
    weights: Weights = None,
    scale: float = 1.0,
    *,
    normalize: bool = False,
    out_dtype: npt.DTypeLike | None = None,
) -> Array:
    """base + scale * sum_t w_t d_t, the sum divided by sum_t w_t if `normalize`.

    Weights that sum to zero divide by zero.
    """
    merged = linear(task_vectors(base, experts), weights, normalize)
    return add_to_base(base, scale, merged, out_dtype)
