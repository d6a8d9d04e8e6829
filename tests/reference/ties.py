"""TIES: trim each task vector, elect a sign per element, blend the values that agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .blend import disjoint_merge
from .dtype import Array, Floats
from .elect import elect_signs
from .model import flatten, float_names, split
from .select import keep, mergekit_keep
from .sums import Weights
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
) -> Floats:
    """What TIES adds to the base before scaling, float32, from task vectors `deltas` [N, ...].

    "paper": `keep`, a vote of zero follows the majority over all elements given, the sum of the
    agreeing entries, over their number if `normalize`. "mergekit": `mergekit_keep`, a vote of zero
    is positive, the sum of the agreeing entries, over the sum of their weights if `normalize`.
    """
    each = [densities] * len(deltas) if isinstance(densities, int | float) else densities
    masks = [
        mergekit_keep(delta, density) if semantics == "mergekit" else keep(delta, density, equal)
        for delta, density in zip(deltas, each, strict=True)
    ]
    trimmed = np.where(np.stack(masks), deltas, np.float32(0))
    if semantics == "mergekit":
        signs = elect_signs(trimmed, weights, "sum", "positive")
        return disjoint_merge(trimmed, signs, weights, "weighted_mean" if normalize else "sum")
    blend = "mean" if normalize else "sum"
    return disjoint_merge(trimmed, elect_signs(trimmed, weights), weights, blend)


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
    out_dtype: npt.DTypeLike | None = None,
) -> dict[str, Array]:
    """TIES over a whole model, each tensor in `out_dtype`, by default in the base tensor's dtype.

    `scope="model"` takes all floating-point tensors together as one vector, for the thresholds and
    for the majority that settles a vote of zero; `scope="tensor"`, and mergekit always, takes each
    tensor by itself. Integer and boolean tensors are copied from the base.
    """

    def merge(deltas: Floats) -> Floats:
        return merged_task_vector(
            deltas, densities, weights, equal=equal, semantics=semantics, normalize=normalize
        )

    names = float_names(base)
    merged: Mapping[str, Array]
    if scope == "tensor" or semantics == "mergekit":
        merged = {
            name: merge(task_vectors(base[name], [expert[name] for expert in experts]))
            for name in names
        }
    else:
        flat = task_vectors(flatten(base, names), [flatten(expert, names) for expert in experts])
        merged = split(merge(flat), base, names)
    return {
        name: add_to_base(tensor, scale, merged[name], out_dtype)
        if name in merged
        else tensor.copy()
        for name, tensor in base.items()
    }
