"""TIES: trim each task vector, elect a sign per element, blend the values that agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .blend import disjoint_merge
from .dtype import Array, Floats, Signs, ieee, promoted
from .elect import elect_signs
from .model import flatten, float_names, split
from .select import keep, mergekit_keep
from .sums import Weights, entries, in_order_sum
from .task_arithmetic import add_to_base, task_vectors

Densities = float | Sequence[float]
"""One density for all experts, or one for each."""


def merged_task_vector(
    deltas: Floats,
    densities: Densities,
    weights: Weights = None,
    *,
    equal: str = "keep",
    semantics: str = "paper",
    normalize: bool = True,
    vote: str = "sum",
) -> Floats:
    """Return TIES' unscaled addition to the base, float32, from task vectors `deltas` [N, ...].

    "paper": `keep`, a vote of zero follows the majority over all elements given, the sum of the
    agreeing entries, over their number if `normalize`. "mergekit": `mergekit_keep`, a vote of zero
    is positive, the sum of the agreeing entries, over the sum of their weights if `normalize`.
    "peft": the first int(n * density), a `vote` ("sum" or "count") before the weights, positive at
    zero, the sum of the weighted entries that agree over their number.
    """
    each = [densities] * len(deltas) if isinstance(densities, int | float) else densities
    equal = "first" if semantics == "peft" else equal
    masks = [
        mergekit_keep(delta, density) if semantics == "mergekit" else keep(delta, density, equal)
        for delta, density in zip(deltas, each, strict=True)
    ]
    trimmed = np.where(np.stack(masks), deltas, np.float32(0))
    if semantics == "mergekit":
        signs = elect_signs(trimmed, weights, "sum", "positive")
        return disjoint_merge(trimmed, signs, weights, "weighted_mean" if normalize else "sum")
    if semantics == "peft":
        return peft_mean(trimmed, elect_signs(trimmed, vote=vote, zero="positive"), weights)
    blend = "mean" if normalize else "sum"
    return disjoint_merge(trimmed, elect_signs(trimmed, weights), weights, blend)


@ieee
def peft_mean(trimmed: Floats, signs: Signs, weights: Weights) -> Floats:
    """The in-order sum of w x over the entries x that have the sign, over their number.

    NaN where the in-order sum of x is.
    """
    agree = ((trimmed > 0) & (signs > 0)) | ((trimmed < 0) & (signs < 0))
    total = in_order_sum(np.where(agree, entries(trimmed, weights), np.float32(0)))
    mean = total / np.maximum(agree.sum(axis=0), 1).astype(np.float32)
    return np.asarray(np.where(np.isnan(in_order_sum(trimmed)), np.float32(np.nan), mean))


def ties(
    base: Array,
    experts: Sequence[Array],
    densities: Densities,
    weights: Weights = None,
    scale: float = 1.0,
    *,
    equal: str = "keep",
    semantics: str = "paper",
    normalize: bool = True,
    vote: str = "sum",
    out_dtype: npt.DTypeLike | None = None,
) -> Array:
    """TIES over one array taken by itself: base + scale * merged."""
    merged = merged_task_vector(
        task_vectors(base, experts),
        densities,
        weights,
        equal=equal,
        semantics=semantics,
        normalize=normalize,
        vote=vote,
    )
    return add_to_base(base, scale, merged, out_dtype)


def ties_model(
    base: Mapping[str, Array],
    experts: Sequence[Mapping[str, Array]],
    densities: Densities,
    weights: Weights = None,
    scale: float = 1.0,
    *,
    scope: str = "model",
    equal: str = "keep",
    semantics: str = "paper",
    normalize: bool = True,
    vote: str = "sum",
    out_dtype: npt.DTypeLike | None = None,
) -> dict[str, Array]:
    """TIES over a whole model, each tensor in `out_dtype`, by default in the base tensor's dtype.

    mergekit's default is the `promoted` dtype of base and experts.

    `scope="model"` takes all floating-point tensors together as one vector, for the thresholds and
    for the majority that settles a vote of zero; `scope="tensor"`, and mergekit and PEFT always,
    takes each tensor by itself. Integer and boolean tensors are copied from the base.
    """

    def merge(deltas: Floats) -> Floats:
        return merged_task_vector(
            deltas,
            densities,
            weights,
            equal=equal,
            semantics=semantics,
            normalize=normalize,
            vote=vote,
        )

    def dtype_of(name: str) -> npt.DTypeLike | None:
        if out_dtype is not None or semantics != "mergekit":
            return out_dtype
        return promoted([base[name], *(expert[name] for expert in experts)])

    names = float_names(base)
    merged: Mapping[str, Array]
    if scope == "tensor" or semantics in ("mergekit", "peft"):
        merged = {
            name: merge(task_vectors(base[name], [expert[name] for expert in experts]))
            for name in names
        }
    else:
        flat = task_vectors(flatten(base, names), [flatten(expert, names) for expert in experts])
        merged = split(merge(flat), base, names)
    return {
        name: add_to_base(tensor, scale, merged[name], dtype_of(name))
        if name in merged
        else tensor.copy()
        for name, tensor in base.items()
    }
