"""Products that are added with one rounding for both, by C's own function."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .dtype import Array, Floats, ieee, narrow, widen
from .sums import Weights, in_order_sum, weight_column

_FMAF = ctypes.CDLL(ctypes.util.find_library("m")).fmaf
_FMAF.restype, _FMAF.argtypes = ctypes.c_float, [ctypes.c_float] * 3


def fused(a: Floats, b: float, c: Floats) -> Floats:
    """a * b + c, element by element."""
    pairs = zip(a.ravel().tolist(), c.ravel().tolist(), strict=True)
    return np.array([_FMAF(x, b, y) for x, y in pairs], np.float32).reshape(a.shape)


def fused_sum(rows: Floats, weights: Weights = None) -> Floats:
    """Sum over the first axis of weight * row, from +0, each step with one rounding."""
    merged = np.zeros(rows.shape[1:], np.float32)
    for row, weight in zip(rows, weight_column(weights, rows).ravel().tolist(), strict=True):
        merged = fused(row, weight, merged)
    return merged


@ieee
def linear_fused(
    models: Sequence[Array] | Array,
    weights: Weights = None,
    normalize: bool = True,
    out_dtype: npt.DTypeLike | None = None,
) -> Array:
    """``linear`` as mergekit computes it: each w_t f_t joins the sum with one rounding."""
    wide = np.stack([widen(model) for model in models])
    merged = fused_sum(wide, weights)
    if normalize:
        merged = merged / in_order_sum(weight_column(weights, wide))
    return narrow(merged, models[0].dtype if out_dtype is None else out_dtype)
