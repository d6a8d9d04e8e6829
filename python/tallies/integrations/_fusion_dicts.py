"""Sums, averages and selections of FusionBench over state dicts and models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from ._seam import HandOver, Original
from ._tensors import number_of, reason_against

StateDict = Mapping[str, Any]


def state_dict_sum(original: Original, state_dicts: Any) -> Any:
    """Add up state dicts in their order."""
    merge = _summing([1.0] * len(_dicts(state_dicts)), "sum")
    return _by_key(original, state_dicts, merge)


def state_dict_avg(original: Original, state_dicts: Any) -> Any:
    """Average state dicts: their sum in order, divided by their number."""
    merge = _summing([1.0] * len(_dicts(state_dicts)), "mean")
    return _by_key(original, state_dicts, merge)


def state_dict_weighted_sum(
    original: Original, state_dicts: Any, weights: Any, device: Any = None
) -> Any:
    """Add up weighted state dicts; a weight of 0 leaves its state dict out."""
    import torch

    _dicts(state_dicts)
    if not isinstance(weights, (list, tuple)) or len(weights) != len(state_dicts):
        raise HandOver("arguments")
    factors = [float(number_of(weight)) for weight in weights]
    if not any(factors):
        raise HandOver("weights")
    if device is not None and torch.device(device).type != "cpu":
        raise HandOver("device")
    return _by_key(original, state_dicts, _summing(factors, "sum"), weights, device)


def task_arithmetic(original: Original, self: Any, modelpool: Any) -> Any:
    """Add the scaled sum of task vectors to a model, one pass over each parameter.

    Only a pool whose models are in memory already: the host loads others one after the other.
    """
    import torch
    from torch import nn

    pool = getattr(modelpool, "_models", modelpool)
    if isinstance(pool, list):
        pool = {str(number): model for number, model in enumerate(pool)}
    if not isinstance(pool, Mapping) or "_pretrained_" not in pool:
        raise HandOver("pool")
    models = [pool[name] for name in pool if not name.startswith("_") or name == "_pretrained_"]
    if not all(isinstance(model, nn.Module) for model in models):
        raise HandOver("pool")
    base = pool["_pretrained_"]
    experts = [model for name, model in pool.items() if not name.startswith("_")]
    factor = self.config.scaling_factor
    scale = float(number_of(factor))
    with torch.no_grad():
        own, others = base.state_dict(), [model.state_dict() for model in experts]
        _dicts([own, *others])
        if not others:
            raise HandOver("arguments")
        merged = OrderedDict(_merged(own, others, _adding(scale), _host_sum(factor)))
        model = base if self.inplace else deepcopy(base)
        model.load_state_dict(merged)
    return model


def emr_merge(original: Original, task_vectors: Any) -> Any:
    """Elect one task vector, and the masks and factors of all tasks; the election is ours."""
    import torch

    from .. import torch as ours

    dicts = _dicts(task_vectors)
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


def _dicts(state_dicts: Any) -> Sequence[StateDict]:
    if not isinstance(state_dicts, (list, tuple)) or not state_dicts:
        raise HandOver("arguments")
    if not all(isinstance(one, Mapping) and one for one in state_dicts):
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


def _adding(scale: float) -> Callable[[Any, list[Any]], Any]:
    from .. import torch as ours

    def merge(base: Any, rows: list[Any]) -> Any:
        return ours.combine(base, rows, gate="all", vote="none", blend="sum", scale=scale)

    return merge


def _host_sum(scale: Any) -> Callable[[Any, list[Any]], Any]:
    """Return the host's own steps, for tensors such as counters of batches."""

    def merge(base: Any, rows: list[Any]) -> Any:
        total = rows[0] - base
        for row in rows[1:]:
            total = total + (row - base)
        still = not total.is_floating_point() and (scale == 0 or bool((total == 0).all()))
        merged = base + (total if still else scale * total)
        if merged.dtype != base.dtype:
            raise HandOver("dtype")
        return merged

    return merge


def _merged(
    base: StateDict,
    experts: Sequence[StateDict],
    ours: Callable[[Any, list[Any]], Any],
    theirs: Callable[[Any, list[Any]], Any],
) -> Iterator[tuple[str, Any]]:
    reasons = {name: reason_against([base[name], *(x[name] for x in experts)]) for name in base}
    if all(reasons.values()):
        raise HandOver(next(iter(reasons.values())) or "empty")
    for name, own in base.items():
        rows = [expert[name] for expert in experts]
        yield name, (theirs if reasons[name] else ours)(own, rows)
