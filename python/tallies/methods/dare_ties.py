"""DARE before TIES: drop at random, rescale, elect signs, merge what agrees."""

from __future__ import annotations

from ._parameters import a_density, a_rescale, a_scale, a_weight, an_int8_mask
from ._spec import Blend, Gate, Method, Parameter, Rule, Values, Vote, Zero

_OURS = ("paper", "mergekit")


class DareTies(Method):
    """Drop each entry of the task vectors at random, elect signs, average what agrees.

    y_t = w_t drop(f_t - base) / density; s = sign(sum_t y_t); out = base + scale * mean{y_t :
    sign(y_t) = s}, the sum without ``normalize``. The drop takes the place of the trim of TIES.

    The drop, its random numbers and ``rescale`` are those of ``dare_linear``; equal magnitudes are
    ordinary. Zeros never agree and never count. A sum of exactly zero takes the majority of the
    elected signs over the model, and the negative sign when that is zero too. A NaN is never
    dropped, and is an error unless the merge's ``nonfinite`` says otherwise.

    With mergekit semantics what agrees is summed, or with ``normalize`` divided by the sum of its
    weights; a zero sum is positive; ``rescale`` is ``l1``. With peft semantics the vote is of the
    entries before the weights, a zero sum is positive, and the density must be given. What
    fusion_bench has by this name trims to the largest fifth what the drop has left; that is not
    offered.

    Yu et al., Language Models are Super Mario, 2023, arXiv 2311.03099.
    """

    name = "dare_ties"
    formula = "out = base + scale * mean of the w_t drop(f_t - base) / density of the elected sign"
    paper = "Yu et al. 2023, arXiv 2311.03099"
    semantics = ("paper", "mergekit", "peft")
    has_order = True

    density = a_density(0.1, by_semantics={"mergekit": 1.0, "peft": None})
    weight = a_weight()
    scale = a_scale(semantics=_OURS)
    rescale = a_rescale(semantics=_OURS)
    normalize = Parameter(True, "mean, not sum", by_semantics={"mergekit": False}, semantics=_OURS)
    int8_mask = an_int8_mask(semantics=_OURS)

    @classmethod
    def rule(cls, parameters: Values, semantics: str) -> Rule:
        if semantics == "peft":
            mean, zero = Blend.MEAN_OF_AGREEING, Zero.POSITIVE
            return Rule(Gate.RANDOM, Vote.UNWEIGHTED_SUM, mean, zero, rescale="probability")
        mergekit = semantics == "mergekit"
        mean = Blend.WEIGHTED_MEAN_OF_AGREEING if mergekit else Blend.MEAN_OF_AGREEING
        blend = mean if parameters["normalize"] else Blend.SUM_OF_AGREEING
        zero = Zero.POSITIVE if mergekit else Zero.MAJORITY
        return Rule(Gate.RANDOM, Vote.SUM, blend, zero, rescale=parameters["rescale"])
