"""Task arithmetic and MagMax of FusionBench over whole models, one pass over each parameter."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from ._fusion_dicts import StateDict, dicts_of
from ._seam import HandOver, Original
from ._tensors import check_finite, number_of, reason_against

POOLED = ("load_model", "model_names", "is_special_model")
"""The methods of a pool whose results are read from its dict of models instead."""
Merge = Callable[[Any, list[Any]], Any]
"""From a tensor of the base and those of the experts to the merged one."""


def task_arithmetic(original: Original, self: Any, modelpool: Any) -> Any:
    """Add the scaled sum of task vectors to the model of a pool."""
    base, experts = _models(modelpool)
    factor = self.config.scaling_factor
    scale = float(number_of(factor))
    return _merged(base, experts, _adding(scale, "sum"), _summed(factor), self.inplace)


def magmax(original: Original, self: Any, modelpool: Any) -> Any:
    """Add the scaled entries of largest magnitude to the model of a pool."""
    base, experts = _models(modelpool)
    return magmax_merge(original, base, experts, self.scaling_factor, self.inplace)


def magmax_merge(
    original: Original,
    pretrained_model: Any,
    finetuned_models: Any,
    scaling_factor: Any = 1.0,
    inplace: Any = True,
) -> Any:
    """Add the scaled entries of largest magnitude to a model."""
    from torch import nn

    if not isinstance(finetuned_models, (list, tuple)) or not finetuned_models:
        raise HandOver("arguments")
    if not all(isinstance(model, nn.Module) for model in (pretrained_model, *finetuned_models)):
        raise HandOver("kind")
    scale = float(number_of(scaling_factor))
    merge = _adding(scale, "largest")
    return _merged(pretrained_model, finetuned_models, merge, _largest(scaling_factor), inplace)


def _models(modelpool: Any) -> tuple[Any, list[Any]]:
    """Return the base and the experts of a pool that are all in memory.

    A pool of another class may load and name its models in its own ways, so that it is the host's.
    The host loads others one after the other, where a merge in one pass would need all at once.
    """
    from fusion_bench.modelpool import BaseModelPool
    from torch import nn

    pool = modelpool
    if type(modelpool) is BaseModelPool and not any(name in vars(modelpool) for name in POOLED):
        pool = modelpool._models
    if type(pool) is not dict or not all(isinstance(name, str) for name in pool):
        raise HandOver("pool")
    if "_pretrained_" not in pool or not all(_is_own(BaseModelPool, name) for name in POOLED):
        raise HandOver("pool")
    base = pool["_pretrained_"]
    experts = [pool[name] for name in pool if not BaseModelPool.is_special_model(name)]
    if not experts or not all(isinstance(model, nn.Module) for model in (base, *experts)):
        raise HandOver("pool")
    return base, experts


def _is_own(home: type, name: str) -> bool:
    """Return whether a class of the host still has the method that its file defines."""
    found = vars(home).get(name)
    function = getattr(found, "fget", None) or getattr(found, "__func__", found)
    code = getattr(function, "__code__", None)
    file = sys.modules[home.__module__].__file__
    return code is not None and code.co_name == name and code.co_filename == file


def _merged(base: Any, experts: Sequence[Any], ours: Merge, theirs: Merge, inplace: Any) -> Any:
    """Merge each tensor by ours where it can be merged here, and load what comes out."""
    import torch

    with torch.no_grad():
        own, *others = dicts_of([model.state_dict() for model in (base, *experts)])
        state: dict[str, Any] = OrderedDict()
        reasons = _reasons(own, others)
        for name, tensor in own.items():
            rows = [expert[name] for expert in others]
            state[name] = (theirs if reasons[name] else ours)(tensor, rows)
        model = base if inplace else deepcopy(base)
        model.load_state_dict(state)
    return model


def _reasons(own: StateDict, others: Sequence[StateDict]) -> dict[str, str | None]:
    reasons = {name: reason_against([own[name], *(x[name] for x in others)]) for name in own}
    if not reasons or all(reasons.values()):
        raise HandOver(next(iter(reasons.values()), None) or "empty")
    if "shapes" in reasons.values():
        raise HandOver("shapes")
    return reasons


def _adding(scale: float, blend: str) -> Merge:
    from .. import torch as ours

    def merge(base: Any, rows: list[Any]) -> Any:
        merged = ours.combine(base, rows, gate="all", vote="none", blend=blend, scale=scale)
        if blend == "largest":
            check_finite(merged)
        return merged

    return merge


def _summed(scale: Any) -> Merge:
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


def _largest(scale: Any) -> Merge:
    """Return the host's own steps; it leaves whole numbers as they are."""
    import torch

    def merge(base: Any, rows: list[Any]) -> Any:
        if not (base.is_floating_point() or base.is_complex()):
            return base
        chosen = rows[0] - base
        for row in rows[1:]:
            delta = row - base
            chosen = torch.where(delta.abs() >= chosen.abs(), delta, chosen)
        return base + scale * chosen

    return merge
