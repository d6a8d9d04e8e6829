"""DARE before TIES: drop at random, rescale, elect signs, merge the values that agree."""

from __future__ import annotations

from ..spec.choices import FUSIONBENCH, MERGEKIT, PAPER, PEFT, Rescale, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import BLENDS_OF_AGREEING, Blend, Gate, Rule, Vote, Zero, staged
from . import _parameters as has
from ._method import Method

_OURS, _BENCH = (PAPER, MERGEKIT), (FUSIONBENCH,)


class DareTies(Method):
    """Drop entries of the task vectors at random, elect signs, average the values that agree.

    y_t = w_t trim(drop(f_t - base) / density); s = sign(sum_t y_t); out = base + scale * mean{y_t :
    sign(y_t) = s}, the sum without ``normalize``. The trim is that of ``ties`` over the model, to
    the share ``trim_density`` of all entries; with 1 nothing is trimmed.

    The drop, its random numbers and ``rescale`` are those of ``dare_linear``. All entries of a
    magnitude equal to the threshold survive the trim. Zeros never agree and never count. A sum of
    exactly zero takes the majority of the elected signs over the model, and the negative sign when
    the majority is zero too. A NaN is never dropped, and is an error unless the merge's
    ``nonfinite`` says otherwise.

    mergekit: the values that agree are summed, or with ``normalize`` divided by the sum of their
    weights; a zero sum is positive; ``rescale`` is ``l1``. peft: the unweighted entries vote, a
    zero sum is positive, the density must be given. fusionbench: trimmed to a fifth, without
    weights, blended by ``merge_func``; its ``sparsity_ratio`` is 1 - density.

    Yu et al., Language Models are Super Mario, 2023, arXiv 2311.03099.
    """

    name = "dare_ties"
    formula = "out = base + scale * mean of the w_t drop(f_t - base) / density of the elected sign"
    paper = "Yu et al. 2023, arXiv 2311.03099"
    semantics = (*_OURS, PEFT, *_BENCH)
    has_order = True

    density = has.a_density(
        0.1,
        by_semantics={MERGEKIT: 1.0, PEFT: None, FUSIONBENCH: 0.5},
        range_by_semantics={MERGEKIT: (0, None)},
    )
    weight = has.a_weight(semantics=(*_OURS, PEFT))
    scale = has.a_scale(semantics=_OURS + _BENCH, by_semantics={FUSIONBENCH: 0.5})
    rescale = has.a_rescale(semantics=_OURS + _BENCH)
    trim_density = has.a_trim_density(semantics=(PAPER, *_BENCH))
    normalize = Parameter(True, "mean, not sum", by_semantics={MERGEKIT: False}, semantics=_OURS)
    merge_func = has.a_merge_func(semantics=_BENCH)
    int8_mask = has.an_int8_mask(semantics=_OURS)

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        if semantics is PEFT:
            voted = (Vote.UNWEIGHTED_SUM, Blend.MEAN_OF_AGREEING, Zero.POSITIVE)
            return staged(Gate.RANDOM, *voted, rescale=Rescale.PROBABILITY)
        func = parameters.get("merge_func") or ("mean" if parameters["normalize"] else "sum")
        zero, trim = Zero.MAJORITY, parameters.get("trim_density", 1.0)
        if semantics is MERGEKIT:
            zero, func = Zero.POSITIVE, "weighted_mean" if parameters["normalize"] else "sum"
        agreed = (Gate.RANDOM, Vote.SUM, BLENDS_OF_AGREEING[func], zero)
        return staged(*agreed, rescale=parameters["rescale"], trim=trim)

    @classmethod
    def objection(cls, parameters: Values) -> str | None:
        return has.trim_objection(parameters)
