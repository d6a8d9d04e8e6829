"""Model Breadcrumbs before the election of TIES."""

from __future__ import annotations

from typing import Any

from ._parameters import a_scale, a_weight
from ._spec import Blend, Gate, Method, Parameter, Rule, Vote, Zero


class BreadcrumbsTies(Method):
    """Drop the smallest and the largest entries, elect signs, add what agrees.

    y_t = w_t band(f_t - base); s = sign(sum_t y_t), + where that is zero; out = base + scale *
    sum{y_t : sign(y_t) = s}, over the sum of the weights that agree when ``normalize`` is true.

    A row is a vector along the last dimension, D its length: the int(D gamma) entries of largest
    magnitude are dropped, and of the others all but the int(D density) largest. ``scope: tensor``
    ranks the entries of a tensor together. Of equal magnitudes the lowest index ranks first; zero
    is the smallest and never agrees. A NaN is never dropped, and is an error unless the merge's
    ``nonfinite`` says otherwise.

    With mergekit semantics the ranks are a tensor's, density 1 keeps all, and where both drops do
    not leave int(D density) entries fewer large ones are dropped.

    Davari and Belilovsky, Model Breadcrumbs, 2023, arXiv 2312.06795.
    """

    name = "breadcrumbs_ties"
    formula = "out = base + scale * sum of the w_t band(f_t - base) that have the elected sign"
    paper = "Davari and Belilovsky 2023, arXiv 2312.06795"
    semantics = ("paper", "mergekit")

    density = Parameter(
        0.15, "share that stays", low=0, high=1, per_model=True, by_semantics={"mergekit": 1.0}
    )
    gamma = Parameter(
        0.006, "share too large", low=0, high=1, per_model=True, by_semantics={"mergekit": 0.01}
    )
    weight = a_weight()
    scale = a_scale()
    scope = Parameter("row", "ranks over", choices=("row", "tensor"), semantics=("paper",))
    rescale = Parameter("none", "what stays is scaled by", choices=("l1", "none"), switch=True)
    normalize = Parameter(False, "divide by the sum of the weights that agree")
    int8_mask = Parameter(False, "mergekit's; without effect: how it stores masks")

    @classmethod
    def rule(cls, parameters: dict[str, Any], semantics: str) -> Rule:
        scope = parameters.get("scope", "tensor")
        mean = parameters["normalize"]
        blend = Blend.WEIGHTED_MEAN_OF_AGREEING if mean else Blend.SUM_OF_AGREEING
        rescale = parameters["rescale"]
        return Rule(Gate.BAND, Vote.SUM, blend, Zero.POSITIVE, scope, rescale=rescale)
