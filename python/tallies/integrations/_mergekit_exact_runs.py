"""Tell whether a whole run of ours has mergekit's bits, from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ..floats import float32_sum
from ..spec.rules import Blend
from ._seam import HandOver
from ._tensors import check_order_of_dense

if TYPE_CHECKING:
    from ..merging.plan import MergePlan

DTYPES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

METHODS: Final = {
    "linear": DTYPES,
    "passthrough": DTYPES,
    "nearswap": {"F32": "float32"},
    "task_arithmetic": {"F32": "float32"},
}
"""The methods whose bits are mergekit's, and the dtypes in which they are."""


def refuse_inexact(plan: MergePlan, config: Any, options: Any) -> None:
    """Hand over a run whose result may have other bits than mergekit's.

    Args:
        plan: The plan of ours.
        config: The host's configuration.
        options: The host's options.

    Raises:
        HandOver: The run is none of those methods over equal names in one dtype on the processor.
    """
    if config.merge_method not in METHODS:
        raise HandOver("within rounding only")
    if options.device not in ("cpu", None):
        raise HandOver("device")
    if config.tokenizer or config.tokenizer_source:
        raise HandOver("vocabulary")
    models = [plan.template, *plan.experts]
    if any(one.adapters for one in models):
        raise HandOver("adapters")
    stored = {tensor.dtype for one in models for tensor in one.tensors.values()}
    if len(stored) != 1 or any(t.is_decoded for one in models for t in one.tensors.values()):
        raise HandOver("dtype")
    dtype = METHODS[config.merge_method].get(stored.pop())
    # mergekit rounds to a 16-bit dtype that it computes in before it rounds to the result's.
    if dtype is None or (config.dtype or dtype) != dtype:
        raise HandOver("dtype")
    if dtype != "float32" and (config.out_dtype or dtype) != dtype:
        raise HandOver("dtype")
    if (
        config.merge_method != "passthrough"
        and len({frozenset(one.tensors) for one in models}) != 1
    ):
        raise HandOver("names")
    if plan.rule.blend is Blend.FUSED_MEAN and not _sums_alike(plan):
        raise HandOver("order of sums")
    if config.merge_method == "task_arithmetic":
        for tensor in plan.template.tensors.values():
            check_order_of_dense(len(plan.experts), tensor.n_elements)
    if any(tensor.n_elements == 0 for one in models for tensor in one.tensors.values()):
        raise HandOver("empty")


def _sums_alike(plan: MergePlan) -> bool:
    """Tell if torch adds the weights of each tensor up to the divisor that ours is."""
    import torch

    sets = {tuple(values["weight"]) for values in plan.parameters.values()}
    return all(
        float32_sum(weights) == torch.tensor([weights], dtype=torch.float32).sum(dim=1).item()
        for weights in sets
    )


def refuse_other_bits(
    names: Sequence[str], weights: Sequence[Any], dtype: str | None, plan: MergePlan
) -> None:
    """Hand over a run that does not write the very tensors of mergekit.

    Args:
        names: The tensors that ours writes.
        weights: The host's list of the weights of the result.
        dtype: The dtype that the configuration asks for; None for that of the models.
        plan: The plan of ours.

    Raises:
        HandOver: A tensor would be missing, too many, or of another dtype.
    """
    stored = {name for one in (plan.template, *plan.experts) for name in one.tensors}
    expected = set()
    for weight in weights:
        if weight.force_dtype not in (None, dtype):
            raise HandOver("dtype")
        others = {*(weight.aliases or ()), *(weight.tied_names or ())}
        if not weight.optional or {weight.name, *others} & stored:
            expected.add(weight.name)
    if expected != set(names):
        raise HandOver("names")
