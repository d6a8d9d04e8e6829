"""Parameters that many methods have."""

from __future__ import annotations

from typing import Any

from ..spec.choices import FUSIONBENCH, MERGEKIT, Rescale
from ..spec.parameters import Parameter, Values


def a_density(default: float, **others: Any) -> Parameter:
    """The share of each task vector that stays."""
    return Parameter(default, "share that stays", low=0, high=1, per_model=True, **others)


def a_weight(**others: Any) -> Parameter:
    """What each task vector is multiplied by."""
    return Parameter(1.0, "weight of the task vector", per_model=True, **others)


def a_scale(**others: Any) -> Parameter:
    """What the merged task vector is multiplied by."""
    about = "factor on the merged task vector"
    return Parameter(1.0, about, per_tensor=True, aliases=("lambda",), **others)


def a_rescale(**others: Any) -> Parameter:
    """What makes up for the entries that a random drop takes away."""
    return Parameter(
        Rescale.PROBABILITY,
        "what stays is scaled by",
        choices=(Rescale.PROBABILITY, Rescale.L1, Rescale.NONE),
        switch=True,
        by_semantics={MERGEKIT: Rescale.L1},
        **others,
    )


def a_merge_func(**others: Any) -> Parameter:
    """How fusion_bench blends what agrees."""
    return Parameter("sum", "of what agrees", choices=("sum", "mean", "max"), **others)


def a_trim_density(**others: Any) -> Parameter:
    """The share of each task vector that a trim leaves of what a drop has left."""
    about, to_a_fifth = "share that stays of what was drawn", {FUSIONBENCH: 0.2}
    return Parameter(1.0, about, low=0, high=1, by_semantics=to_a_fifth, **others)


def trim_objection(parameters: Values) -> str | None:
    """Why what was drawn cannot be trimmed, or None."""
    if parameters.get("trim_density", 1.0) < 1 and parameters["rescale"] is Rescale.L1:
        return "what 'rescale: l1' scales cannot be trimmed; change it or 'trim_density'"
    return None


def an_int8_mask(**others: Any) -> Parameter:
    """An option of mergekit that changes no result."""
    return Parameter(False, "mergekit's; without effect: how it stores masks", **others)
