"""Sums, averages and selections of FusionBench over state dicts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._seam import HandOver, Original
from ._tensors import check_finite, number_of, reason_against

StateDict = Mapping[str, Any]


def state_dict_sum(original: Original, state_dicts: Any) -> Any:
    """Add up state dicts in their order."""
    merge = _summing([1.0] * len(dicts_of(state_dicts)), "sum")
    return _by_key(original, state_dicts, merge)


def state_dict_avg(original: Original, state_dicts: Any) -> Any:
    """Average state dicts: their sum in order, divided by their number."""
    merge = _summing([1.0] * len(dicts_of(state_dicts)), "mean")
    return _by_key(original, state_dicts, merge)


def state_dict_weighted_sum(
    original: Original, state_dicts: Any, weights: Any, device: Any = None
) -> Any:
    """Add up weighted state dicts; a weight of 0 leaves its state dict out."""
    import torch

    dicts_of(state_dicts)
    if not isinstance(weights, (list, tuple)) or len(weights) != len(state_dicts):
        raise HandOver("arguments")
    factors = [float(number_of(weight)) for weight in weights]
    if not any(factors):
        raise HandOver("weights")
    if device is not None and torch.device(device).type != "cpu":
        raise HandOver("device")
    return _by_key(original, state_dicts, _summing(factors, "sum"), weights, device)


def magmax_select(original: Original, task_vectors: Any) -> Any:
    """Select the entry of largest magnitude among task vectors; a later one wins a tie."""
    import torch

    from .. import torch as ours

    def merge(rows: list[Any]) -> Any:
        selected = ours.combine(None, rows, gate="all", vote="none", blend="largest")
        check_finite(selected)
        return selected

    dicts_of(task_vectors)
    with torch.no_grad():
        return dict(_by_key(original, task_vectors, merge))


def emr_merge(original: Original, task_vectors: Any) -> Any:
    """Elect one task vector, and the masks and factors of all tasks; the election is ours."""
    import torch

    from .. import torch as ours

    dicts = dicts_of(task_vectors)
    if any(reason_against([one[name] for one in dicts]) for name in dicts[0]):
        raise HandOver("dtype")
    unified: dict[str, Any] = {}
    masks: dict[str, list[Any]] = {}
    scales, new_scales = torch.zeros(len(dicts)), torch.zeros(len(dicts))
    for name in dicts[0]:
        rows = [one[name] for one in dicts]
        signs = ours.elect_signs(rows, zero="negative")
        # The host gives a zero the elected sign too.
        elected = ours.disjoint_merge(rows, signs, blend="max").abs_().mul_(signs)
        unified[name] = elected
        positive = signs > 0
        masks[name] = [torch.where(positive, row > 0, row < 0) for row in rows]
        for task, (row, mask) in enumerate(zip(rows, masks[name], strict=True)):
            scales[task] += torch.mean(torch.abs(row))
            new_scales[task] += torch.mean(torch.abs(elected * mask))
    if not torch.isfinite(scales).all():
        raise HandOver("not finite")
    return unified, masks, scales / new_scales


def dicts_of(state_dicts: Any) -> Sequence[StateDict]:
    """Return state dicts of the same names and kinds; raise HandOver where they are others."""
    if not isinstance(state_dicts, (list, tuple)) or not state_dicts:
        raise HandOver("arguments")
    # Other mappings may have no copy, or make their tensors when they are asked for.
    if not all(type(one) in (dict, OrderedDict) and one for one in state_dicts):
        raise HandOver("arguments")
    if any(one.keys() != state_dicts[0].keys() for one in state_dicts):
        raise HandOver("names")
    first = state_dicts[0]
    if any(type(one[name]) is not type(first[name]) for one in state_dicts for name in first):
        raise HandOver("kind")
    return state_dicts


def _summing(weights: list[float], blend: str) -> Callable[[list[Any]], Any]:
    from .. import torch as ours

    def merge(rows: list[Any]) -> Any:
        used = [(row, weight) for row, weight in zip(rows, weights, strict=True) if weight]
        return ours.combine(
            None,
            [row for row, _ in used],
            gate="all",
            vote="none",
            blend=blend,
            weights=[weight for _, weight in used],
        )

    return merge


def _by_key(
    original: Original, dicts: Sequence[StateDict], merge: Callable[[list[Any]], Any], *others: Any
) -> Any:
    """Merge each tensor that can be merged here, and let the host do the rest."""
    theirs: list[str] = []
    reasons = []
    for name in dicts[0]:
        reason = reason_against([one[name] for one in dicts])
        if reason is not None:
            theirs.append(name)
            reasons.append(reason)
    if len(theirs) == len(dicts[0]):
        raise HandOver(reasons[0])
    rest: StateDict = {}
    if theirs:
        rest = original.host([{name: one[name] for name in theirs} for one in dicts], *others)
    return OrderedDict(
        (name, rest[name] if name in rest else merge([one[name] for one in dicts]))
        for name in dicts[0]
    )
