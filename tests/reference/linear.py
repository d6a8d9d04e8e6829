"""Weighted averages of whole models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .dtype import Array, ieee, narrow, widen
from .sums import Weights, entries, in_order_sum, weight_column


@ieee
def linear(
    models: Sequence[Array] | Array,
    weights: Weights = None,
    normalize: bool = True,
    out_dtype: npt.DTypeLike | None = None,
) -> Array:
    """sum_t w_t f_t, divided by sum_t w_t if `normalize`, over `models`, one or more of one shape.

    Both sums run in the order of the models. Weights that sum to zero divide by zero. The dtype is
    `out_dtype`, by default that of the first model.
    """
    wide = np.stack([widen(model) for model in models])
    merged = in_order_sum(entries(wide, weights))
    if normalize:
        merged = merged / in_order_sum(weight_column(weights, wide))
    return narrow(merged, models[0].dtype if out_dtype is None else out_dtype)
