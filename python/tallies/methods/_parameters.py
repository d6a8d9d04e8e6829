"""Make the parameters that many methods have."""

from __future__ import annotations

from typing import Any

from ..spec.choices import FUSIONBENCH, MERGEKIT, Rescale
from ..spec.parameters import Parameter, Values


def a_density(default: float, **others: Any) -> Parameter:
    """Return the density: the share of each task vector that survives the trim.

    mergekit takes what lies outside 0 to 1 for the nearer end.
    """
    others.setdefault("range_by_semantics", {MERGEKIT: (None, None)})
    return Parameter(
        default, "share of entries that survives", low=0, high=1, per_model=True, **others
    )


def a_weight(**others: Any) -> Parameter:
    """Return the weight: the factor on each task vector. mergekit has no default for it."""
    others.setdefault("required_by", (MERGEKIT,))
    return Parameter(1.0, "weight of the task vector", per_model=True, **others)


def a_scale(**others: Any) -> Parameter:
    """Return the scale: the factor on the merged task vector."""
    about = "factor on the merged task vector"
    return Parameter(1.0, about, per_tensor=True, aliases=("lambda",), **others)


def a_rescale(**others: Any) -> Parameter:
    """Return the rescaling: the factor on the survivors of a random drop."""
    return Parameter(
        Rescale.PROBABILITY,
        "factor on survivors",
        choices=(Rescale.PROBABILITY, Rescale.L1, Rescale.NONE),
        switch=True,
        by_semantics={MERGEKIT: Rescale.L1},
        **others,
    )


def an_l1_rescale(**others: Any) -> Parameter:
    """Return the factor that gives a trimmed task vector its L1 norm back, off by default."""
    choices = (Rescale.L1, Rescale.NONE)
    return Parameter(Rescale.NONE, "factor on survivors", choices=choices, switch=True, **others)


def a_merge_func(**others: Any) -> Parameter:
    """Return fusion_bench's blend of the values that agree."""
    return Parameter(
        "sum", "blend of the values that agree", choices=("sum", "mean", "max"), **others
    )


def a_trim_density(**others: Any) -> Parameter:
    """Return the share of each task vector that survives a trim after the random drop."""
    about, to_a_fifth = "share of entries that survives the trim", {FUSIONBENCH: 0.2}
    return Parameter(1.0, about, low=0, high=1, by_semantics=to_a_fifth, **others)


def trim_objection(parameters: Values) -> str | None:
    """Return why the survivors of the drop cannot be trimmed, or None."""
    if parameters.get("trim_density", 1.0) < 1 and parameters["rescale"] is Rescale.L1:
        return "what 'rescale: l1' scales cannot be trimmed; change it or 'trim_density'"
    return None


def an_int8_mask(**others: Any) -> Parameter:
    """Return an option of mergekit that changes no result."""
    return Parameter(False, "mergekit's storage of masks; without effect", idle=False, **others)
