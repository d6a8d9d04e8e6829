"""Merges of many tensors in one call, and of one as other tools' task-vector methods call it.

They say what hosts must know to take the result for their own: how many entries that equal a
threshold were left out, and which results are not finite. See ``steps`` for the rules of tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..messages import unknown
from . import arguments
from .calling import Deltas, Weights, refusing

_combine_many = torch.ops.tallies.combine_many.default

_SMALLEST: Final = 1e-8
"""The least sum of weights that mergekit divides by."""

_BLENDS: Final = {
    (None, False): ("none", "sum"),
    (None, True): ("none", "mean"),
    ("sum", False): ("sum", "sum_of_agreeing"),
    ("sum", True): ("sum", "weighted_mean_of_agreeing"),
    ("count", False): ("count", "sum_of_agreeing"),
    ("count", True): ("count", "weighted_mean_of_agreeing"),
}
"""Vote and blend, by ``consensus`` and ``normalize``."""


class Merges(NamedTuple):
    """Merged tensors, and what is to know of each."""

    tensors: list[Tensor]
    left_out: Tensor
    """int64 [T]: the entries, over all experts, that fail although they equal the threshold."""
    overflow: Tensor
    """bool [T]: a value is infinite or NaN."""


class Merge(NamedTuple):
    """A merged tensor, and what is to know of it."""

    tensor: Tensor
    left_out: int
    """The entries, over all experts, that fail although they equal the threshold."""
    overflow: bool
    """True if a value is infinite or NaN."""


@refusing
def combine_many(
    bases: Sequence[Tensor] | None,
    experts: Sequence[Deltas],
    *,
    vote: str = "none",
    blend: str = "sum",
    density: Any = None,
    masks: Sequence[Deltas] | None = None,
    weights: Any = None,
    divisors: Sequence[float] | Tensor | None = None,
    scale: float = 1.0,
    zero: str = "positive",
    equal: str = "first",
    at_least_one: bool = False,
    deltas: bool = False,
    dtype: torch.dtype | None = None,
    threads: int | None = None,
) -> Merges:
    """Merge many tensors in one call, each by itself: out = base + scale * merged.

    y_t = w_t gate(f_t - base); the vote elects a sign; the blend makes one value of the y_t of an
    element, or of those that agree with the sign. The gate trims by ``density``, takes the entries
    in ``masks``, or all. Small tensors are merged beside each other, in as many threads as the work
    is worth. NaN and infinities that pass the gate reach the result. On the CPU only.

    Args:
        bases: A base for each tensor. With None the experts are task vectors, and the result is
            scale * merged.
        experts: For each tensor its experts, any number: a list, or one tensor [N, ...].
        vote: "none", "sum", "count", or "unweighted_sum" and "unweighted_count" of the entries
            before their weights.
        blend: The blend; "mean" divides by ``divisors``.
        density: The share of entries to keep: a number, one for each expert, or a list of these for
            each tensor. None ranks nothing.
        masks: In place of a density: bool tensors in the shapes of the experts.
        weights: A finite number for each expert, or a list of these for each tensor; 1 by default.
        divisors: A number for each tensor; by default, the sum of the weights.
        scale: The factor on the merged task vector.
        zero: The sign where a vote is exactly zero, as in ``elect_signs``; or "majority_or_drop",
            which is 0 where the majority is zero as well.
        equal: The treatment of equal magnitudes, as in ``trim``.
        at_least_one: Keeps the first of the largest entries, unless the density is 0.
        deltas: True if the experts are task vectors, also beside bases.
        dtype: float32, float16 or bfloat16; by default, that of the base, or else of the first
            expert.
        threads: The most threads; by default, those of ``torch.get_num_threads``.

    Returns:
        New tensors, and for each how many entries that equal a threshold, and are not zero, were
        left out, and whether a value is infinite or NaN.

    Raises:
        InputError: Shapes differ, an argument is out of range, or vote and blend are not compiled
            together.

    >>> few, more = torch.tensor([[4.0, 1], [2, -3]]), torch.tensor([[1.0], [2], [6]])
    >>> merged = combine_many(None, [few, more], vote="unweighted_sum", blend="mean_of_agreeing")
    >>> merged.tensors
    [tensor([ 3., -3.]), tensor([3.])]
    >>> merged.left_out
    tensor([0, 0])
    """
    rows = [arguments.rows_of(f"experts[{t}]", one) for t, one in enumerate(experts)]
    n_experts = [len(one) for one in rows]
    found = _combine_many(
        bases,
        [x for one in rows for x in one],
        n_experts,
        vote,
        blend,
        _each("density", density, n_experts),
        None
        if masks is None
        else [x for t, one in enumerate(masks) for x in arguments.rows_of(f"masks[{t}]", one)],
        _each("weights", weights, n_experts),
        arguments.numbers_of(divisors),
        scale,
        zero,
        equal,
        at_least_one,
        deltas,
        dtype,
        threads,
    )
    return Merges(*found)


@refusing
def merge_task_vectors(
    base: Tensor,
    experts: Deltas,
    *,
    density: float | Sequence[float] | Tensor | None = None,
    weights: Weights = None,
    consensus: str | None = None,
    normalize: bool = False,
    scale: float = 1.0,
    masks: Deltas | None = None,
    deltas: bool = False,
    dtype: torch.dtype | None = None,
    threads: int | None = None,
) -> Merge:
    """Merge one tensor as mergekit's task-vector methods do, and say where others may differ.

    y_t = w_t gate(f_t - base). With a consensus the y_t that have the sign of their sum, or of most
    of them, are added, positive at zero; else all are. ``normalize`` divides by the sum of their
    weights, 1 where that is zero. out = base + scale * merged, in float32, rounded once.

    Args:
        base: The base.
        experts: N tensors in the shape of the base, or one tensor [N, ...]; dtypes may differ.
        density: The share of each task vector to keep, for all or one per expert: max(1, int(n *
            density)) entries, the first among equal ones; none for 0. None keeps all.
        weights: A finite number for each expert; 1 by default.
        consensus: None, "sum" or "count".
        normalize: True to divide by the sum of the weights.
        scale: The factor on the merged task vector: lambda.
        masks: In place of a density: bool tensors in the shape of the base.
        deltas: True if the experts are task vectors, drawn and rescaled by the caller.
        dtype: The dtype of the result; by default, the base's.
        threads: The most threads; by default, those of ``torch.get_num_threads``.

    Returns:
        A new tensor; how many entries that equal a threshold, and are not zero, were left out; and
        whether a value is infinite or NaN. If none were, the values are those of any choice among
        equal magnitudes.

    Raises:
        InputError: Shapes differ, or an argument is out of range.

    >>> experts = torch.tensor([[4.0, 1, -2, 2], [2, -3, 1, 0]])
    >>> merge_task_vectors(torch.zeros(4), experts, density=0.5, consensus="sum", normalize=True)
    Merge(tensor=tensor([ 3., -3., -2.,  0.]), left_out=1, overflow=False)
    """
    if (consensus, bool(normalize)) not in _BLENDS:
        raise InputError(f"consensus {unknown(consensus, ['sum', 'count'])}, or None")
    vote, blend = _BLENDS[consensus, bool(normalize)]
    rows = arguments.rows_of("experts", experts)
    divisors = None
    if blend == "mean":
        # In torch's order, which from some number of experts on is not theirs.
        sum_of_weights = torch.tensor(
            [1.0] * len(rows) if weights is None else arguments.numbers_of(weights)
        ).sum()
        divisors = [1.0 if abs(sum_of_weights) < _SMALLEST else sum_of_weights.item()]
    (merged,), left_out, overflow = _combine_many(
        [base],
        rows,
        [len(rows)],
        vote,
        blend,
        None if density is None else arguments.densities(density, len(rows)),
        None if masks is None else arguments.rows_of("masks", masks),
        arguments.numbers_of(weights),
        divisors,
        scale,
        "positive",
        "first",
        True,
        deltas,
        dtype,
        threads,
    )
    return Merge(merged, left_out.item(), overflow.item())


def _each(name: str, value: Any, n_experts: Sequence[int]) -> list[float] | None:
    """Return a number for each expert of each tensor, from one, from those of a tensor, or all."""
    value = arguments.numbers_of(value)
    if value is None:
        return None
    if isinstance(value, (float, int)):
        return [value] * sum(n_experts)
    if len(value) > 0 and not isinstance(value[0], (Sequence, Tensor)):
        for t, n in enumerate(n_experts):
            if n != len(value):
                raise InputError(
                    f"{name}: found {len(value)} values, expected one for each of the {n} experts "
                    f"of tensor {t}; give a list for each tensor"
                )
        return list(value) * len(n_experts)
    return [x for one in value for x in arguments.numbers_of(one)]
