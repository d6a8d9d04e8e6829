"""Model Breadcrumbs: drop the smallest and the largest entries of task vectors."""

from __future__ import annotations

from ..spec.choices import MERGEKIT, PAPER, Scope, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, Vote, staged
from ._band import CITATION, DENSITY, GAMMA, RESCALE, SCOPE
from ._method import Method, mean_objection
from ._parameters import a_scale, a_weight, an_int8_mask


class Breadcrumbs(Method):
    """Drop the smallest and the largest entries of each task vector and add the rest.

    out = base + scale * sum_t w_t band(f_t - base), the sum divided by sum_t w_t when ``normalize``
    is true.

    In each row, a vector along the last dimension of length D, the int(D gamma) entries of largest
    magnitude are dropped, and all but the int(D density) largest of the others. ``scope: tensor``
    ranks the entries of a tensor together. Among equal magnitudes the lowest index ranks first;
    zeros are the smallest. A NaN is never dropped, and is an error unless the merge's ``nonfinite``
    says otherwise.

    mergekit semantics ranks the entries of a tensor together; density 1 keeps all; where both drops
    leave fewer than int(D density) entries, fewer large entries are dropped.

    Davari and Belilovsky, Model Breadcrumbs, 2023, arXiv 2312.06795.
    """

    name = "breadcrumbs"
    formula = "out = base + scale * sum_t w_t band(f_t - base)"
    paper = CITATION
    semantics = (PAPER, MERGEKIT)

    density, gamma = DENSITY, GAMMA
    weight = a_weight()
    scale = a_scale()
    scope, rescale = SCOPE, RESCALE
    normalize = Parameter(False, "divide by the sum of the weights")
    int8_mask = an_int8_mask()

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        scope = parameters.get("scope", Scope.TENSOR)
        blend = Blend.MEAN if parameters["normalize"] else Blend.SUM
        return staged(Gate.BAND, Vote.NONE, blend, scope=scope, rescale=parameters["rescale"])

    @classmethod
    def objection(cls, parameters: Values) -> str | None:
        return mean_objection(parameters)
