"""Whole merges of one tensor: TIES, and any combination of gate, vote and blend.

See ``steps`` for the rules of tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from ..errors import InputError
from ..kernels.arguments import choice
from ..messages import show
from . import arguments
from .calling import Deltas, Weights
from .many import combine_many
from .numbered import number_of

_ties = torch.ops.tallies.ties.default
_combine = torch.ops.tallies.combine.default
_numbered = torch.ops.tallies.merge_by_number.default
# The function behind the operator, without the one of Python around it.
_by_number = getattr(_numbered, "_op", _numbered)

_TINY: Final = 5e-324
"""The least number above zero."""


_SEMANTICS: Final = ("paper", "mergekit", "peft", "fusionbench")
_UNWEIGHTED: Final = ("unweighted_sum", "unweighted_count")
_VOTES: Final = {"total": "unweighted_sum", "frequency": "unweighted_count"}
_BLENDS: Final = {
    "mean": "mean_of_agreeing",
    "sum": "sum_of_agreeing",
    "max": "largest_agreeing",
}
_ONLY: Final = {
    "equal": ("keep", ("paper",)),
    "normalize": (True, ("paper", "mergekit")),
    "weights": (None, ("paper", "mergekit", "peft")),
    "majority_sign_method": ("total", ("peft",)),
    "merge_func": ("mean", ("fusionbench",)),
}
"""Arguments of ``ties`` that only some semantics have, with their defaults."""


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
    normalize: bool = True,
    majority_sign_method: str = "total",
    merge_func: str = "mean",
    dtype: torch.dtype | None = None,
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
        semantics: "paper", or "mergekit", "peft" or "fusionbench" for the result of that tool.
        threads: The most threads; by default, those of ``torch.get_num_threads``.
        normalize: False for the sum of the values that agree; for paper and mergekit.
        majority_sign_method: "total" or "frequency"; for peft.
        merge_func: "mean", "sum" or "max"; for fusionbench.
        dtype: The dtype of the result, on the CPU; by default, the base's.

    Returns:
        A new tensor of the shape of the base.

    Raises:
        InputError: Shapes differ, or an argument is out of range or not one of the semantics.

    Yadav et al., TIES-Merging, 2023, arXiv 2306.01708.

    >>> experts = torch.tensor([[4.0, 1, -2, 0], [2, -3, 1, 0]])
    >>> ties(torch.zeros(4), experts, density=0.5)
    tensor([ 3., -3., -2.,  0.])
    """
    try:
        rows = experts if type(experts) is list else arguments.rows_of("experts", experts)
        if type(density) is float and weights is None and normalize is True and dtype is None:
            number = number_of((semantics, equal, majority_sign_method, merge_func))
            if number is not None:
                return _by_number(base, rows, number, density, scale, threads)  # type: ignore[no-any-return]
        shares = arguments.densities(density, len(rows))
        if normalize is True and dtype is None and semantics in ("paper", "mergekit"):
            if majority_sign_method != "total" or merge_func != "mean":
                _refuse_others(
                    semantics, majority_sign_method=majority_sign_method, merge_func=merge_func
                )
            factors = None if weights is None else arguments.numbers_of(weights)
            return _ties(base, rows, shares, scale, factors, equal, semantics, threads)  # type: ignore[no-any-return]
        _refuse_others(
            semantics,
            equal=equal,
            normalize=normalize,
            weights=weights,
            majority_sign_method=majority_sign_method,
            merge_func=merge_func,
        )
        rule = _rule_of_others(semantics, equal, normalize, majority_sign_method, merge_func)
        if semantics == "fusionbench":
            # A density of zero ranks none before the largest, which is kept.
            shares = [max(share, _TINY) if share == 0 else share for share in shares]
        return combine_many(
            [base],
            [rows],
            density=shares,
            weights=weights,
            scale=scale,
            dtype=dtype,
            threads=threads,
            **rule,
        ).tensors[0]
    except Exception as error:
        raise arguments.refused(error, ties, locals()) from error.__cause__


def _rule_of_others(
    semantics: str, equal: str, normalize: bool, majority_sign_method: str, merge_func: str
) -> dict[str, Any]:
    """Return the arguments of ``combine_many`` that make another tool's TIES, or one of sums."""
    blend = "mean_of_agreeing" if normalize else "sum_of_agreeing"
    rule = {"vote": "sum", "blend": blend, "zero": "majority", "equal": equal}
    if semantics == "mergekit":
        blend = "weighted_mean_of_agreeing" if normalize else "sum_of_agreeing"
        return {**rule, "blend": blend, "zero": "positive", "equal": "first", "at_least_one": True}
    if semantics == "peft":
        vote = _VOTES[choice("majority_sign_method", majority_sign_method, _VOTES)]
        return {**rule, "vote": vote, "zero": "positive", "equal": "first"}
    if semantics == "fusionbench":
        blend = _BLENDS[choice("merge_func", merge_func, _BLENDS)]
        zero = "majority_or_drop" if merge_func == "max" else "majority"
        return {**rule, "blend": blend, "zero": zero}
    return rule


def _refuse_others(semantics: object, **given: object) -> None:
    """Raise InputError for unknown semantics, or an argument that these do not have."""
    if semantics not in _SEMANTICS:
        raise InputError(
            f"semantics: found {show(semantics)}, expected one of {', '.join(_SEMANTICS)}"
        )
    for name, value in given.items():
        default, of = _ONLY[name]
        if value is not default and value != default and semantics not in of:
            raise InputError(
                f"{name}: found {show(value)}, and ties in {semantics} semantics has none; leave "
                f"it out, or give semantics={' or '.join(map(repr, of))}"
            )


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
    masks: Deltas | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Merge one tensor by any gate, vote and blend that is compiled: out = base + scale * merged.

    y_t = w_t gate(f_t - base); the vote elects a sign s; the blend makes one value of the y_t of an
    element, or of the y_t that agree with s. Zeros never agree. NaN and infinities that pass the
    gate reach the result.

    Args:
        base: The base. With None the experts are task vectors, and the result is scale * merged.
        experts: N tensors of one shape, or one tensor [N, ...]; dtypes may differ.
        gate: "magnitude" trims by ``density``, "all" keeps every entry, "given" those in ``masks``.
        vote: "none", "sum" or "count", as in ``elect_signs``; or "unweighted_sum" or
            "unweighted_count", of the entries before their weights, on the CPU.
        blend: The blend; "mean" divides by the sum of the weights.
        density: The share of each task vector to keep, for all or one per expert; None where the
            gate keeps everything.
        weights: A finite number for each expert; 1 by default.
        scale: The factor on the merged task vector.
        zero: The sign where a vote is exactly zero, as in ``elect_signs``.
        equal: The treatment of equal magnitudes, as in ``trim``.
        threads: The most threads; by default, those of ``torch.get_num_threads``.
        masks: For the gate "given", N bool tensors in the shape of the experts, on the CPU.
        dtype: The dtype of the result, on the CPU; by default, that of the base, or else of the
            first expert.

    Returns:
        A new tensor of the shape of the base, or else of the first expert.

    Raises:
        InputError: Shapes differ, an argument is out of range, or the combination is not compiled;
            the message lists those that are.

    >>> experts = torch.tensor([[4.0, 1, -2, 0], [2, -3, 1, 0]])
    >>> combine(torch.ones(4), experts, density=1.0, vote="count", blend="largest_agreeing")
    tensor([ 4., -3., -2.,  0.])
    >>> combine(None, experts, gate="all", vote="none", blend="sum", scale=0.5)
    tensor([ 3.0000, -1.0000, -0.5000,  0.0000])
    """
    try:
        rows = experts if type(experts) is list else arguments.rows_of("experts", experts)
        if type(density) is float and weights is None and masks is None and dtype is None:
            number = number_of((gate, vote, blend, zero, equal))
            if number is not None:
                return _by_number(base, rows, number, density, scale, threads)  # type: ignore[no-any-return]
        shares = None if density is None else arguments.densities(density, len(rows))
        if masks is None and dtype is None and gate != "given" and vote not in _UNWEIGHTED:
            factors = None if weights is None else arguments.numbers_of(weights)
            return _combine(  # type: ignore[no-any-return]
                base, rows, gate, vote, blend, shares, factors, scale, zero, equal, threads
            )
        if (gate == "given") != (masks is not None):
            found = "none" if masks is None else "some"
            raise InputError(f"masks: found {found}, and gate {show(gate)}, expected both or none")
        choice("gate", gate, ["magnitude", "all", "given"])
        if (gate == "magnitude") != (density is not None):
            found = "none" if density is None else "one"
            raise InputError(f"density: found {found}, and gate {gate!r}; give both or none")
        return combine_many(
            None if base is None else [base],
            [rows],
            vote=vote,
            blend=blend,
            density=shares,
            masks=None if masks is None else [masks],
            weights=weights,
            scale=scale,
            zero=zero,
            equal=equal,
            dtype=dtype,
            threads=threads,
        ).tensors[0]
    except Exception as error:
        raise arguments.refused(error, combine, locals()) from error.__cause__
