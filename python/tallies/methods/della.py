"""DELLA: drop small entries of a row with higher probability, rescale, elect signs, average."""

from __future__ import annotations

from ..spec.choices import MERGEKIT, PAPER, Scope, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, Vote, Zero, staged
from ._chance_by_rank import CITATION, DENSITY, EPSILON, chance_objection
from ._method import Method
from ._parameters import a_rescale, a_scale, a_weight, an_int8_mask


class Della(Method):
    """Drop entries at random, small ones with higher probability, elect signs, average.

    y_t = w_t drop(f_t - base); s = sign(sum_t y_t), + where the sum is zero; out = base + scale *
    sum{y_t : sign(y_t) = s} / sum{w_t : sign(y_t) = s}, not divided when ``normalize`` is false.

    drop keeps an entry of rank r = 0 (smallest magnitude) to D - 1 among the D entries of its row,
    a vector along the last dimension, with probability p_r = density - epsilon + 2 epsilon r / (D -
    1), and divides the entry by p_r; for D = 1 the probability is density. Among equal magnitudes
    the lowest index ranks lowest; zeros are the smallest and never agree. ``rescale: l1``,
    mergekit's, multiplies by sum |x| / sum |survivors| of the tensor instead. Density 1 keeps all
    entries, 0 none. Random numbers are those of ``dare_linear``. A NaN is never dropped, and is an
    error unless the merge's ``nonfinite`` says otherwise.

    mergekit ranks tensors of more than two dimensions along the second; this method ranks them
    along the last in mergekit semantics too.

    Deep et al., DELLA-Merging, 2024, arXiv 2406.11617.
    """

    name = "della"
    formula = "out = base + scale * mean of the w_t drop(f_t - base) / p that have the elected sign"
    paper = CITATION
    semantics = (PAPER, MERGEKIT)
    has_order = True

    density, epsilon = DENSITY, EPSILON
    weight = a_weight()
    scale = a_scale()
    rescale = a_rescale()
    normalize = Parameter(True, "divide by the sum of the weights that agree")
    int8_mask = an_int8_mask()

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        mean = parameters["normalize"]
        blend = Blend.WEIGHTED_MEAN_OF_AGREEING if mean else Blend.SUM_OF_AGREEING
        rescale = parameters["rescale"]
        return staged(Gate.RANK, Vote.SUM, blend, Zero.POSITIVE, Scope.TENSOR, rescale=rescale)

    @classmethod
    def objection(cls, parameters: Values) -> str | None:
        return chance_objection(parameters)
