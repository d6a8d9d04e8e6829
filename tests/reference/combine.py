"""Any gate, vote and blend on one array."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .blend import disjoint_merge
from .dtype import Array, Floats, ieee, narrow, widen
from .elect import elect_signs
from .fused import fused_sum
from .magmax import largest
from .select import keep
from .sums import Weights, entries, in_order_sum, weight_column
from .task_arithmetic import add_to_base, task_vectors

OF_AGREEING = {
    "sum_of_agreeing": "sum",
    "mean_of_agreeing": "mean",
    "weighted_mean_of_agreeing": "weighted_mean",
    "largest_agreeing": "max",
}


TOTALS: dict[str, Callable[[Floats, Weights], Floats]] = {
    **dict.fromkeys(
        ("sum", "mean"), lambda deltas, weights: in_order_sum(entries(deltas, weights))
    ),
    **dict.fromkeys(("fused_sum", "fused_mean"), fused_sum),
    "largest": lambda deltas, weights: largest(entries(deltas, weights)),
}
"""Blends of the entries that pass, without an election, and before a mean is divided."""


@ieee
def combine(
    base: Array | None,
    experts: Sequence[Array],
    gate: str,
    vote: str,
    blend: str,
    density: float | Sequence[float] = (),
    weights: Weights = None,
    scale: float = 1.0,
    zero: str = "majority",
    equal: str = "keep",
) -> Array:
    """base + scale * merged in the base's dtype; without a base scale * merged in the first's."""
    if base is None:
        deltas = np.stack([widen(expert) for expert in experts])
    else:
        deltas = task_vectors(base, experts)
    if gate == "magnitude":
        each = density if isinstance(density, Sequence) else [density] * len(deltas)
        masks = [keep(*pair, equal) for pair in zip(deltas, each, strict=True)]
        deltas = np.where(np.stack(masks), deltas, np.float32(0))
    if vote == "none":
        merged = TOTALS[blend](deltas, weights)
        if blend.endswith("mean"):
            merged = merged / in_order_sum(weight_column(weights, deltas)).reshape(-1)[0]
    else:
        signs = elect_signs(deltas, weights, vote, zero)
        merged = disjoint_merge(deltas, signs, weights, OF_AGREEING[blend])
    if base is None:
        return narrow(np.float32(scale) * merged, experts[0].dtype)
    return add_to_base(base, scale, merged)
