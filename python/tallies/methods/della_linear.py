"""DELLA without the election: drop the smaller of a row more likely, rescale, add."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._parameters import a_rescale, a_scale, a_weight
from ._spec import Blend, Gate, Method, Parameter, Rule, Vote, chance_objection, mean_objection


class DellaLinear(Method):
    """Drop entries at random, small ones rather, and add what stays, scaled up.

    out = base + scale * sum_t w_t drop(f_t - base), the sum divided by sum_t w_t when ``normalize``
    is true.

    drop keeps an entry of rank r = 0 (smallest magnitude) to D - 1 among the D of its row, a vector
    along the last dimension, with probability p_r = density - epsilon + 2 epsilon r / (D - 1), and
    divides it by p_r; density itself for D = 1. Of equal magnitudes the lowest index ranks lowest;
    zeros are the smallest. ``rescale: l1``, mergekit's, multiplies by sum |x| / sum |what
    stays| of the tensor instead. Density 1 keeps all, 0 nothing. Random numbers are those of
    ``dare_linear``. A NaN stays, and is an error unless the merge's ``nonfinite`` says otherwise.

    Deep et al., DELLA-Merging, 2024, arXiv 2406.11617.
    """

    name = "della_linear"
    formula = "out = base + scale * sum_t w_t drop(f_t - base) / p"
    paper = "Deep et al. 2024, arXiv 2406.11617"
    semantics = ("paper", "mergekit")
    has_order = True

    density = Parameter(
        0.7, "mean chance to stay", low=0, high=1, per_model=True, by_semantics={"mergekit": 1.0}
    )
    epsilon = Parameter(
        0.07, "largest change of it", low=0, high=1, per_model=True, by_semantics={"mergekit": 0.15}
    )
    weight = a_weight()
    scale = a_scale()
    rescale = a_rescale()
    normalize = Parameter(False, "divide by the sum of the weights")
    int8_mask = Parameter(False, "mergekit's; without effect: how it stores masks")

    @classmethod
    def rule(cls, parameters: dict[str, Any], semantics: str) -> Rule:
        blend = Blend.MEAN if parameters["normalize"] else Blend.SUM
        return Rule(Gate.RANK, Vote.NONE, blend, rescale=parameters["rescale"])

    @classmethod
    def objection(cls, parameters: Mapping[str, Any]) -> str | None:
        return chance_objection(parameters) or mean_objection(parameters)
