"""TIES: trim, elect signs, merge the values that agree."""

from __future__ import annotations

from ..spec.choices import FUSIONBENCH, MERGEKIT, PAPER, PEFT, Equal, Rescale, Scope, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import BLENDS_OF_AGREEING, Blend, Gate, Rule, Vote, Zero, staged, trimmed
from ._method import Method
from ._parameters import a_density, a_merge_func, a_scale, a_weight, an_int8_mask, an_l1_rescale

_OURS = (PAPER, MERGEKIT)
_SCOPES = (Scope.MODEL, Scope.TENSOR)
_VOTES = {"total": Vote.UNWEIGHTED_SUM, "frequency": Vote.UNWEIGHTED_COUNT}


class Ties(Method):
    """Trim each task vector, elect a sign per element, average the values that agree.

    y_t = w_t trim(f_t - base); s = sign(sum_t y_t); out = base + scale * mean{y_t : sign(y_t) = s}.

    All entries of a magnitude equal to the threshold survive the trim (``equal: keep``), or the
    first in order so that exactly k survive (``equal: first``). Zeros never agree and never count.
    A sum of exactly zero takes the majority of the elected signs over the scope, and the negative
    sign when the majority is zero too. A NaN or infinity is an error unless the merge's
    ``nonfinite`` says otherwise. Without ``normalize`` the values that agree are summed. A density
    that varies over the tensors ranks each by itself, unless ``scope`` is given.

    mergekit: max(1, int(n * density)) entries of a tensor survive, none for density 0; a zero sum
    is positive; the mean is sum y / sum w over the values that agree; ``rescale`` multiplies the
    survivors of a tensor by sum |x| / sum |survivors|. peft: int(n * density)
    entries of a tensor survive; the sum of the unweighted entries (or with ``frequency`` the sign
    of most) elects, positive at zero; the mean divides by the count. fusionbench: the paper's
    variant without weights, with ``merge_func`` and another scale; density 0 keeps the entries of
    the largest magnitude, and the ``max`` of a vote of zero is zero where the majority is.

    Yadav et al., TIES-Merging, 2023, arXiv 2306.01708.
    """

    name = "ties"
    formula = "out = base + scale * mean of the trimmed w_t (f_t - base) that have the elected sign"
    paper = "Yadav et al. 2023, arXiv 2306.01708"
    semantics = (*_OURS, PEFT, FUSIONBENCH)

    density = a_density(0.2, by_semantics={MERGEKIT: 1.0, PEFT: None})
    weight = a_weight(semantics=(*_OURS, PEFT))
    scale = a_scale(semantics=(*_OURS, FUSIONBENCH), by_semantics={FUSIONBENCH: 0.3})
    scope = Parameter(
        Scope.MODEL,
        "entries ranked together",
        choices=_SCOPES,
        semantics=(PAPER,),
        if_varied={"density": Scope.TENSOR},
    )
    equal = Parameter(
        Equal.KEEP, "entries equal to the threshold", choices=(*Equal,), semantics=(PAPER,)
    )
    normalize = Parameter(True, "mean of values that agree; false: sum", semantics=_OURS)
    rescale = an_l1_rescale(semantics=(MERGEKIT,))
    majority_sign_method = Parameter("total", "election", choices=(*_VOTES,), semantics=(PEFT,))
    merge_func = a_merge_func(semantics=(FUSIONBENCH,))
    int8_mask = an_int8_mask(semantics=_OURS)

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        of_tensor = (Zero.POSITIVE, Scope.TENSOR, Equal.FIRST)
        if semantics is PEFT:
            vote = _VOTES[parameters["majority_sign_method"]]
            return trimmed(vote, Blend.MEAN_OF_AGREEING, *of_tensor)
        if semantics is FUSIONBENCH:
            blend = BLENDS_OF_AGREEING[parameters["merge_func"]]
            return trimmed(Vote.SUM, blend, even=0 if blend is Blend.LARGEST_AGREEING else -1)
        mean = Blend.MEAN_OF_AGREEING if semantics is PAPER else Blend.WEIGHTED_MEAN_OF_AGREEING
        blend = mean if parameters["normalize"] else Blend.SUM_OF_AGREEING
        if semantics is MERGEKIT and parameters["rescale"] is Rescale.L1:
            # A band without outliers is a trim, and a stage that the sums are taken behind.
            voted = (Vote.SUM, blend, Zero.POSITIVE, Scope.TENSOR)
            return staged(Gate.BAND, *voted, rescale=Rescale.L1)
        if semantics is MERGEKIT:
            return trimmed(Vote.SUM, blend, *of_tensor)
        return trimmed(Vote.SUM, blend, Zero.MAJORITY, parameters["scope"], parameters["equal"])
