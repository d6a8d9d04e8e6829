"""Merges the factors of several adapters one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..errors import InputError
from ..messages import show
from .operands import Factors
from .targets import Kind, Target

if TYPE_CHECKING:
    import numpy as np


def merge_factors(
    method: str, target: Target, factors: Sequence[Factors], parameters: Mapping[str, Any]
) -> Factors:
    """Return the merged factors of one tensor.

    Args:
        method: The name of a method of factors.
        target: The tensor.
        factors: The factors of each adapter that changes it.
        parameters: The parameters of the method.

    Raises:
        InputError: The ranks differ, or entries overlap that must not.
    """
    import numpy as np

    ranks = sorted({left.shape[-1] for left, _ in factors})
    if len(ranks) > 1:
        raise InputError(
            f"tensor {show(target.name)}: {method} merges factors of one rank, found {ranks[0]} "
            f"and {ranks[-1]}; merge the products instead (task_arithmetic, ties), or bring the "
            "adapters to one rank first (adapter_rank)"
        )
    merge = _METHODS[method]
    # PEFT stores embeddings and transposed weights with A on the left.
    swapped = target.kind in (Kind.EMBEDDING, Kind.TRANSPOSED)
    turned = [
        (np.swapaxes(r, -1, -2), np.swapaxes(x, -1, -2)) if swapped else (x, r) for x, r in factors
    ]
    if turned[0][0].ndim == 3:
        pairs = [
            merge(target, [(left[i], right[i]) for left, right in turned], parameters)
            for i in range(len(turned[0][0]))
        ]
        return np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])
    b, a = merge(target, turned, parameters)
    return (a.T, b.T) if swapped else (b, a)


def _copa(target: Target, factors: Sequence[Factors], parameters: Mapping[str, Any]) -> Factors:
    import numpy as np

    density, fuse = parameters["density"], parameters["fuse"]
    bs = [_trimmed(b, density) for b, _ in factors]
    rows = [_trimmed(a, density) for _, a in factors]
    scores = np.stack(
        [_scores(a, own, parameters["top"]) for (_, a), own in zip(factors, rows, strict=True)]
    )
    b = sum(b * score for b, score in zip(bs, scores, strict=True)) / scores.sum(0)
    return fuse * b, fuse * np.sum(rows, 0)


def _trimmed(x: np.ndarray, density: float) -> np.ndarray:
    """Return a matrix without its entries below the int((1 - density) n)-th smallest magnitude."""
    import numpy as np

    k = int((1 - density) * x.size)
    if k == 0:
        return x
    threshold = np.partition(np.abs(x), k - 1, None)[k - 1]
    return np.where(np.abs(x) >= threshold, x, 0.0)


def _scores(a: np.ndarray, own: np.ndarray, top: float) -> np.ndarray:
    """Return the score of each row of A, of which ``own`` is left."""
    import numpy as np

    whole, left = np.abs(a).sum(1), np.abs(own).sum(1)
    scores = np.divide(whole, left, out=np.ones_like(whole), where=left > 0)
    at = min(int((1 - top) * len(scores)), len(scores) - 1)
    raised: np.ndarray = np.maximum(scores, np.sort(scores)[at])
    return raised


def _disjoint(target: Target, factors: Sequence[Factors], parameters: Mapping[str, Any]) -> Factors:
    import numpy as np

    made = []
    for side, letter in ((0, "B"), (1, "A")):
        total = np.zeros_like(factors[0][side])
        for one in factors:
            both = (total != 0) & (one[side] != 0) & (total != one[side])
            if both.any():
                where = [*map(int, np.argwhere(both)[0])]
                raise InputError(
                    f"tensor {show(target.name)}: disjoint gathers factors that do not overlap, "
                    f"and two adapters have different values at {where} of {letter}; add the "
                    "products instead: task_arithmetic"
                )
            total = np.where(one[side] != 0, one[side], total)
        made.append(total)
    return made[0], made[1]


_METHODS: Final = {"copa": _copa, "disjoint": _disjoint}
