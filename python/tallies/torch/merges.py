"""Whole merges of one tensor: TIES, and any combination of gate, vote and blend.

See ``steps`` for the rules of tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import arguments
from .calling import Deltas, Weights, refusing

_ties = torch.ops.tallies.ties.default
_combine = torch.ops.tallies.combine.default


@refusing
def ties(
    base: Tensor,
    experts: Deltas,
    *,
    density: float | Sequence[float] | Tensor,
    scale: float = 1.0,
    weights: Weights = None,
    equal: str = "keep",
    semantics: str = "paper",
    threads: int | None = None,
) -> Tensor:
    """Merge one tensor by TIES: trim each task vector, elect signs, average what agrees.

    y_t = w_t trim(f_t - base); s = sign(sum_t y_t); out = base + scale * mean{y_t : sign(y_t) = s}.
    Sums of exactly zero take the majority sign over the tensor. Zeros never agree. NaN and
    infinities that survive the trim reach the result.

    Args:
        base: The base.
        experts: N tensors in the shape of the base, or one tensor [N, ...]; dtypes may differ.
        density: The share of each task vector to keep, from 0 to 1, for all or one per expert.
        scale: The factor on the merged task vector.
        weights: A finite number for each expert; 1 by default.
        equal: The treatment of equal magnitudes, as in ``trim``.
        semantics: "paper", or "mergekit" for the result of that tool.
        threads: The number of threads; by default, all cores.

    Returns:
        A new tensor of the shape and dtype of the base.

    Raises:
        InputError: Shapes differ, or an argument is out of range.

    Yadav et al., TIES-Merging, 2023, arXiv 2306.01708.

    >>> experts = torch.tensor([[4.0, 1, -2, 0], [2, -3, 1, 0]])
    >>> ties(torch.zeros(4), experts, density=0.5)
    tensor([ 3., -3., -2.,  0.])
    """
    rows = arguments.rows_of("experts", experts)
    return _ties(  # type: ignore[no-any-return]
        base,
        rows,
        arguments.densities(density, len(rows)),
        scale,
        arguments.numbers_of(weights),
        equal,
        semantics,
        threads,
    )


@refusing
def combine(
    base: Tensor | None,
    experts: Deltas,
    *,
    gate: str = "magnitude",
    vote: str = "sum",
    blend: str = "mean_of_agreeing",
    density: float | Sequence[float] | Tensor | None = None,
    weights: Weights = None,
    scale: float = 1.0,
    zero: str = "majority",
    equal: str = "keep",
    threads: int | None = None,
) -> Tensor:
    """Merge one tensor by any gate, vote and blend that is compiled: out = base + scale * merged.

    y_t = w_t gate(f_t - base); the vote elects a sign s; the blend makes one value of the y_t of an
    element, or of the y_t that agree with s. Zeros never agree. NaN and infinities that pass the
    gate reach the result.

    Args:
        base: The base. With None the experts are task vectors, and the result is scale * merged.
        experts: N tensors of one shape, or one tensor [N, ...]; dtypes may differ.
        gate: "magnitude" trims by ``density``, "all" keeps every entry.
        vote: "none", "sum" or "count", as in ``elect_signs``.
        blend: The blend; "mean" divides by the sum of the weights.
        density: The share of each task vector to keep, for all or one per expert; None where the
            gate keeps everything.
        weights: A finite number for each expert; 1 by default.
        scale: The factor on the merged task vector.
        zero: The sign where a vote is exactly zero, as in ``elect_signs``.
        equal: The treatment of equal magnitudes, as in ``trim``.
        threads: The number of threads; by default, all cores.

    Returns:
        A new tensor of the shape and dtype of the base, or else of the first expert.

    Raises:
        InputError: Shapes differ, an argument is out of range, or the combination is not compiled;
            the message lists those that are.

    >>> experts = torch.tensor([[4.0, 1, -2, 0], [2, -3, 1, 0]])
    >>> combine(torch.ones(4), experts, density=1.0, vote="count", blend="largest_agreeing")
    tensor([ 4., -3., -2.,  0.])
    >>> combine(None, experts, gate="all", vote="none", blend="sum", scale=0.5)
    tensor([ 3.0000, -1.0000, -0.5000,  0.0000])
    """
    rows = arguments.rows_of("experts", experts)
    return _combine(  # type: ignore[no-any-return]
        base,
        rows,
        gate,
        vote,
        blend,
        None if density is None else arguments.densities(density, len(rows)),
        arguments.numbers_of(weights),
        scale,
        zero,
        equal,
        threads,
    )
