"""mergekit's other methods: linear and both kinds of ram exactly, arcs within rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._seam import HandOver, Original
from ._tensors import check, check_order, check_weights, number_of

if TYPE_CHECKING:
    from torch import Tensor

HALVES = ("float16", "bfloat16")
SMALLEST_NORMAL = 2.0**-126


def linear(original: Original, batch: Any, weight: Tensor, normalize: bool = True) -> Tensor:
    """Average the tensors of a batch: a chain of fused multiply-adds in float32, rounded once.

    Args:
        original: The host's function, and how close the result has to be.
        batch: The host's batch: a tensor [B, ...] of each model.
        weight: float32 [B, N].
        normalize: True to divide by the sums of the weights.

    Returns:
        A tensor [B, ...] in the dtype of the first model.

    Raises:
        HandOver: The host has to average this batch itself.
    """
    import torch

    from ..torch.many import combine_many

    check(batch.tensors, HALVES)
    check_weights(weight)
    weights = weight.tolist()
    divisors = weight.sum(dim=1).tolist() if normalize else [1.0] * len(weights)
    if 0.0 in divisors:
        raise HandOver("not finite")
    experts: Sequence[Sequence[Tensor]]
    if all(one == weights[0] for one in weights):
        experts, weights, divisors = [batch.tensors], weights[:1], divisors[:1]
    else:
        experts = list(zip(*(x.unbind(0) for x in batch.tensors), strict=True))
    found = combine_many(
        None,
        experts,
        blend="fused_mean" if normalize else "fused_sum",
        weights=weights,
        divisors=divisors if normalize else None,
        dtype=batch.tensors[0].dtype,
        threads=torch.get_num_threads(),
    )
    if original.exact and bool(found.overflow.any()):
        raise HandOver("not finite")
    if len(found.tensors) == 1:
        return found.tensors[0].reshape(batch.tensors[0].shape)
    return torch.stack(found.tensors)


def ram(original: Original, group: Any, epsilon: float = 1e-5) -> Tensor:
    """Add the changes of one expert alone, and the mean of the changes of several."""
    return _with_base(original, group, "ram", epsilon=epsilon)


def ramplus_tl(
    original: Original, group: Any, r: float = 0.1, alpha: float = 0.2, epsilon: float = 1e-5
) -> Tensor:
    """Add the amplified changes of one expert alone, and the mean of the changes of several."""
    if not number_of(epsilon) >= SMALLEST_NORMAL:
        # The host divides by a count, which is at least this in float32.
        raise HandOver("arguments")
    return _with_base(original, group, "ramplus_tl", r=r, alpha=alpha, epsilon=epsilon)


def slerp(original: Original, batch: Any, t: Tensor) -> Tensor:
    """Move from the base of a batch to its other model, along the arc, for each output."""
    import torch

    if batch.base_index is None or len(batch.tensors) != 2:
        raise HandOver("arguments")
    check_weights(t)
    pair = [batch.tensors[batch.base_index], batch.tensors[1 - batch.base_index]]
    outputs = zip(*pair, t.reshape(-1).tolist(), strict=True)
    return torch.stack([_merged(None, [a, b], "slerp", t=share) for a, b, share in outputs])


def nearswap(original: Original, group: Any, t: float) -> Tensor:
    """Take over the values of the other model where they are near the base's."""
    if group.base is None or len(group.non_base) != 1:
        raise HandOver("arguments")
    if original.exact:
        check([entry.tensor for entry in group.entries])
    return _merged(None, [group.base.tensor, group.non_base[0].tensor], "nearswap", t=t)


def arcee_fusion(original: Original, group: Any) -> Tensor:
    """Take over the entries of the other model that matter most, by a threshold of all of them."""
    if group.base is None or len(group.non_base) != 1:
        raise HandOver("arguments")
    return _merged(group.base.tensor, [group.non_base[0].tensor], "arcee_fusion")


def nuslerp(
    original: Original,
    group: Any,
    weight: Any,
    nuslerp_row_wise: bool = False,
    nuslerp_flatten: bool = True,
) -> Tensor:
    """Move from one model or task vector to another along the arc, by their weights."""
    return _merged_group(
        group,
        "nuslerp",
        weights=weight.values_for(group.non_base),
        nuslerp_row_wise=nuslerp_row_wise,
        flatten=nuslerp_flatten,
    )


def multislerp(
    original: Original,
    group: Any,
    weight: Any,
    normalize_weights: bool = True,
    eps: float = 1e-8,
) -> Tensor:
    """Average directions on the sphere, and lengths by themselves."""
    weights = weight.values_for(group.non_base)
    return _merged_group(group, "multislerp", weights=weights, normalize=normalize_weights, eps=eps)


def karcher(original: Original, group: Any, max_iter: int = 10, tol: float = 1e-5) -> Tensor:
    """Average the directions of all models along arcs, the base among them."""
    tensors = [entry.tensor for entry in group.entries]
    if len(tensors) > 1 and tensors[0].dim() == 0:
        # The host's norms of whole models are float32, and these tensors take that over.
        check(tensors, HALVES)
        tensors = [x.float() for x in tensors]
    return _merged(None, tensors, "karcher", max_iter=max_iter, tol=tol)


def model_stock(original: Original, group: Any, filter_wise: bool = False) -> Tensor:
    """Move from the base towards the average, the further the more the task vectors agree."""
    return _merged_group(group, "model_stock", filter_wise=filter_wise)


def sce(
    original: Original, group: Any, int8_mask: bool = False, select_topk: float = 1.0
) -> Tensor:
    """Average the values that agree, where the experts differ most, by the experts' energy."""
    return _merged_group(group, "sce", select_topk=select_topk)


def _with_base(original: Original, group: Any, method: str, **parameters: float) -> Tensor:
    tensors = [entry.tensor for entry in group.non_base]
    base = [] if group.base is None else [group.base.tensor]
    if original.exact:
        check([*base, *tensors])
        check_order(tensors, *base)
    elif method == "ramplus_tl":
        # The host multiplies by float32 factors, and its result has their dtype.
        check([*base, *tensors], HALVES)
        base, tensors = [x.float() for x in base], [x.float() for x in tensors]
    return _merged(base[0] if base else None, tensors, method, **parameters)


def _merged_group(group: Any, method: str, **parameters: Any) -> Tensor:
    base = None if group.base is None else group.base.tensor
    return _merged(base, [entry.tensor for entry in group.non_base], method, **parameters)


def _merged(
    base: Tensor | None, experts: Sequence[Tensor], method: str, **parameters: Any
) -> Tensor:
    """Merge one tensor by a method of ours in mergekit's semantics; NaN stays the host's."""
    from ..merging.state_dicts import merge_state_dicts

    if not experts:
        raise HandOver("no experts")
    check([*experts] if base is None else [base, *experts], HALVES)
    for value in parameters.values():
        if isinstance(value, float):
            number_of(value)
    models: list[Mapping[str, Any]] = [{"x": x.detach()} for x in experts]
    found = merge_state_dicts(
        None if base is None else {"x": base.detach()},
        models,
        method=method,
        semantics="mergekit",
        nonfinite="error",
        **parameters,
    )["x"]
    return found  # type: ignore[no-any-return]
