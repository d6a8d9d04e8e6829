"""The vote: one sign per element."""

from __future__ import annotations

import numpy as np

from .dtype import Array, Signs
from .sums import Weights, entries, in_order_sum


def elect_signs(
    deltas: Array, weights: Weights = None, vote: str = "sum", zero: str = "majority"
) -> Signs:
    """The elected sign of each element of `deltas` [N, ...], as int8 [...] of -1, 0 and 1.

    With y = weight * delta, `vote="sum"` takes the sign of the in-order sum of y, `vote="count"`
    that of #(y > 0) - #(y < 0). A vote of exactly zero follows `zero`: "positive", "negative",
    "drop" (0), or "majority": the sign of the sum of all signs elected without it, negative if that
    is zero too. A sum of NaN elects 0; in a count a NaN entry has no vote.
    """
    ys = entries(deltas, weights)
    tally: Array
    if vote == "sum":
        tally = in_order_sum(ys)
    else:
        tally = np.asarray((ys > 0).sum(axis=0) - (ys < 0).sum(axis=0))
    signs = np.where(tally > 0, 1, np.where(tally < 0, -1, 0))
    majority = 1 if signs.sum() > 0 else -1
    policy = {"majority": majority, "positive": 1, "negative": -1, "drop": 0}[zero]
    return np.where(tally == 0, policy, signs).astype(np.int8)
