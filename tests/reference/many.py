"""Merges of one array that also say how equal magnitudes were treated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .blend import disjoint_merge
from .combine import OF_AGREEING
from .dtype import Array, Floats, Mask, ieee, narrow, widen
from .elect import elect_signs
from .select import keep, magnitude_bits, mergekit_keep
from .sums import Weights, entries, in_order_sum, weight_column
from .task_arithmetic import add_to_base, task_vectors
from .ties import peft_mean


def left_out(x: Array, mask: Mask) -> int:
    """How many entries equal the smallest magnitude in the mask, which is not zero, and fail."""
    sizes = magnitude_bits(x)
    if not mask.any() or sizes[mask].min() == 0:
        return 0
    return int(((sizes == sizes[mask].min()) & ~mask).sum())


@ieee
def masked_mean(deltas: Array, masks: Mask, weights: Weights = None) -> Floats:
    """The in-order sum of the weighted entries in the masks, over their number, at least 1."""
    total = in_order_sum(np.where(masks, entries(deltas, weights), np.float32(0)))
    return np.asarray(total / np.maximum(masks.sum(axis=0), 1).astype(np.float32))


@ieee
def merge_one(
    base: Array | None,
    experts: Sequence[Array],
    *,
    vote: str,
    blend: str,
    density: Sequence[float] | None = None,
    masks: Sequence[Mask] | None = None,
    weights: Weights = None,
    divisor: float | None = None,
    scale: float = 1.0,
    zero: str = "positive",
    equal: str = "first",
    at_least_one: bool = False,
    deltas: bool = False,
    dtype: npt.DTypeLike | None = None,
) -> tuple[Array, int, bool]:
    """The merged array, the entries left out at thresholds, and whether a value is not finite."""
    rows = np.stack([widen(expert) for expert in experts])
    if base is not None and not deltas:
        rows = task_vectors(base, experts)
    n_left_out = 0
    if density is not None:
        masks = [
            mergekit_keep(row, share) if at_least_one else keep(row, share, equal)
            for row, share in zip(rows, density, strict=True)
        ]
        n_left_out = sum(left_out(*pair) for pair in zip(rows, masks, strict=True))
    if masks is not None:
        rows = np.where(np.stack(masks), rows, np.float32(0))
    if vote == "none":
        merged = in_order_sum(entries(rows, weights))
        if blend == "mean":
            own = in_order_sum(weight_column(weights, rows)).reshape(-1)[0]
            merged = merged / (own if divisor is None else np.float32(divisor))
    else:
        by = None if vote.startswith("unweighted") else weights
        policy = "majority" if zero == "majority_or_drop" else zero
        signs = elect_signs(rows, by, vote.removeprefix("unweighted_"), policy)
        if zero == "majority_or_drop":
            plain = elect_signs(rows, by, vote.removeprefix("unweighted_"), "drop")
            signs = plain if plain.sum() == 0 else signs
        if vote.startswith("unweighted"):
            merged = peft_mean(rows, signs, weights)
        else:
            merged = disjoint_merge(rows, signs, weights, OF_AGREEING[blend])
    if base is None:
        out = narrow(np.float32(scale) * merged, experts[0].dtype if dtype is None else dtype)
    else:
        out = add_to_base(base, scale, merged, dtype)
    return out, n_left_out, not bool(np.isfinite(widen(out)).all())
