"""One number for the words of a merge: each word costs an operator an allocation on either side."""

from __future__ import annotations

from typing import Final

from torch.compiler import is_dynamo_compiling

import tallies._core as native

from ..engine.codes import BLEND_CODES, GATE_CODES, VOTE_CODES
from ..spec.rules import Blend, Gate, Vote

_ZEROS: Final = ("majority", "positive", "negative", "drop")


def _number(
    vote: str, blend: str, zero: str, *, exactly: bool = False, at_least_one: bool = False
) -> int:
    """Return the number of a merge, as ``NumberedRule`` in ``csrc/torch/checks.h`` reads it."""
    gate = GATE_CODES[Gate.MAGNITUDE]
    rule = gate | VOTE_CODES[Vote(vote)] << 4 | BLEND_CODES[Blend(blend)] << 8
    return rule | _ZEROS.index(zero) << 12 | exactly << 14 | at_least_one << 15


NUMBERS: Final[dict[tuple[str, ...], int]] = {
    ("paper", "keep", "total", "mean"): _number("sum", "mean_of_agreeing", "majority"),
    ("paper", "first", "total", "mean"): _number(
        "sum", "mean_of_agreeing", "majority", exactly=True
    ),
    ("mergekit", "keep", "total", "mean"): _number(
        "sum", "weighted_mean_of_agreeing", "positive", exactly=True, at_least_one=True
    ),
    **{
        (gate, vote, blend, zero, equal): _number(vote, blend, zero, exactly=equal == "first")
        for gate, vote, blend in native.rules()
        if gate == "magnitude" and vote in ("none", "sum", "count") and blend != "alone_or_mean"
        for zero in _ZEROS
        for equal in ("keep", "first")
    },
}
"""The numbers of ``ties`` by its four words, and of ``combine`` with a density by its five."""


def number_of(words: tuple[str, ...]) -> int | None:
    """Return the number of a merge; None for unknown words, and in a graph, which has words."""
    try:
        return None if is_dynamo_compiling() else NUMBERS.get(words)
    except TypeError:
        return None
