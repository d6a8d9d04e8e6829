"""DELLA without the election: drop small entries with higher probability, rescale, add."""

from __future__ import annotations

from ..spec.choices import MERGEKIT, PAPER, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, Vote, staged
from ._chance_by_rank import CITATION, DENSITY, EPSILON, chance_objection
from ._method import Method, mean_objection
from ._parameters import a_rescale, a_scale, a_weight, an_int8_mask


class DellaLinear(Method):
    """Drop entries at random, small ones with higher probability, and add the rescaled survivors.

    out = base + scale * sum_t w_t drop(f_t - base), the sum divided by sum_t w_t when ``normalize``
    is true.

    The drop by ranks, its random numbers, ``rescale``, equal magnitudes, zeros and NaN are those of
    ``della``.

    Deep et al., DELLA-Merging, 2024, arXiv 2406.11617.
    """

    name = "della_linear"
    formula = "out = base + scale * sum_t w_t drop(f_t - base) / p"
    paper = CITATION
    semantics = (PAPER, MERGEKIT)
    has_order = True

    density, epsilon = DENSITY, EPSILON
    weight = a_weight()
    scale = a_scale()
    rescale = a_rescale()
    normalize = Parameter(False, "divide by the sum of the weights")
    int8_mask = an_int8_mask()

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        blend = Blend.MEAN if parameters["normalize"] else Blend.SUM
        return staged(Gate.RANK, Vote.NONE, blend, rescale=parameters["rescale"])

    @classmethod
    def objection(cls, parameters: Values) -> str | None:
        return chance_objection(parameters) or mean_objection(parameters)
