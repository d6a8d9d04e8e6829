"""Model Breadcrumbs before the election of TIES."""

from __future__ import annotations

from ..spec.choices import MERGEKIT, PAPER, Scope, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, Vote, Zero, staged
from ._band import CITATION, DENSITY, GAMMA, RESCALE, SCOPE
from ._method import Method
from ._parameters import a_scale, a_weight, an_int8_mask


class BreadcrumbsTies(Method):
    """Drop the smallest and the largest entries, elect signs, add the values that agree.

    y_t = w_t band(f_t - base); s = sign(sum_t y_t), + where the sum is zero; out = base + scale *
    sum{y_t : sign(y_t) = s}, divided by the sum of the weights that agree when ``normalize`` is
    true.

    The band, its ranks, equal magnitudes, NaN and mergekit semantics are those of ``breadcrumbs``.
    Zeros never agree.

    Davari and Belilovsky, Model Breadcrumbs, 2023, arXiv 2312.06795.
    """

    name = "breadcrumbs_ties"
    formula = "out = base + scale * sum of the w_t band(f_t - base) that have the elected sign"
    paper = CITATION
    semantics = (PAPER, MERGEKIT)

    density, gamma = DENSITY, GAMMA
    weight = a_weight()
    scale = a_scale()
    scope, rescale = SCOPE, RESCALE
    normalize = Parameter(False, "divide by the sum of the weights that agree")
    int8_mask = an_int8_mask()

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        scope = parameters.get("scope", Scope.TENSOR)
        mean = parameters["normalize"]
        blend = Blend.WEIGHTED_MEAN_OF_AGREEING if mean else Blend.SUM_OF_AGREEING
        rescale = parameters["rescale"]
        return staged(Gate.BAND, Vote.SUM, blend, Zero.POSITIVE, scope, rescale=rescale)
