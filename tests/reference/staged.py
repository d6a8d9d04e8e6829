"""Methods that change the task vectors, expert by expert, before they are blended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from . import select
from .blend import disjoint_merge
from .dtype import Array, Floats, promoted
from .elect import elect_signs
from .linear import linear
from .model import flatten, float_names, split
from .random import key
from .sums import Weights
from .task_arithmetic import add_to_base, task_vectors

Stage = Callable[[Floats, int, int], Floats]
"""(one expert's task vector in one tensor, the expert's number, its key) -> what becomes of it."""


def staged_merge(
    base: Mapping[str, Array],
    experts: Sequence[Mapping[str, Array]],
    stage: Stage,
    weights: Weights = None,
    scale: float = 1.0,
    *,
    seed: int = 0,
    elects: bool = False,
    blend: str = "mean",
    normalize: bool = False,
    zero: str = "positive",
    trim: float = 1.0,
    promotes: bool = False,
) -> dict[str, Array]:
    """base + scale * the blend of stage(x_t), in the base's dtypes, or `promotes` them to all.

    Without an election the weighted sum, divided by that of the weights if `normalize`; with one
    `blend` of what agrees with the sign of the weighted sum, where `zero` settles a sum of zero:
    by the sign of the elected signs' sum over all tensors if it is "majority". Before it the share
    `trim` of all entries stays, the largest and all that equal the least of them.
    """
    names = float_names(base)
    deltas = {name: task_vectors(base[name], [one[name] for one in experts]) for name in names}
    changed = {
        name: np.stack([stage(x, e, key(seed, e, name)) for e, x in enumerate(deltas[name])])
        for name in names
    }
    if elects:
        flat = np.stack(
            [flatten({n: changed[n][e] for n in names}, names) for e in range(len(experts))]
        )
        if trim < 1:
            flat = np.stack([select.trim(row, trim, "keep") for row in flat])
        signs = elect_signs(flat, weights, zero=zero)
        merged = split(disjoint_merge(flat, signs, weights, blend), base, names)
    else:
        merged = {name: linear(changed[name], weights, normalize) for name in names}
    dtypes = {
        name: promoted([base[name], *(one[name] for one in experts)]) if promotes else None
        for name in names
    }
    return {
        name: add_to_base(tensor, scale, merged[name], dtypes[name])
        if name in merged
        else tensor.copy()
        for name, tensor in base.items()
    }
