"""SCE: select, calculate, erase."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..spec.choices import MERGEKIT, PAPER, Equal, Scope, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, SurveyRule, Vote, Zero
from ._method import Method
from ._parameters import an_int8_mask


class Sce(Method):
    """Average the values that agree, where the experts differ most, by the experts' energy.

    x_t = f_t - base, in each tensor only the int(n * select_topk) elements with the largest
    variance over the experts among the n elements with any; w_t = mean(x_t^2) / sum_s mean(x_s^2);
    s = sign(sum_t x_t); out = base + sum{w_t x_t : sign(x_t) = s} / max(sum{w_t : sign(x_t) = s},
    1e-6).

    Among equal variances the lowest index survives. Zeros never agree; a sum of exactly zero is
    positive. A NaN or infinity is an error unless the merge's ``nonfinite`` says otherwise. A
    ``select_topk`` of 1 keeps everything, 0 nothing. The variance and the means are float64.

    With ``fallback``, as in mergekit, all w_t are equal where the mean squares sum to less than
    1e-6, as in usual fine-tunes (changes below 1e-3); without it only where all mean squares are 0.

    Wan et al., FuseChat (SCE), 2024, arXiv 2408.07990.
    """

    name = "sce"
    formula = "out = base + mean of the f_t - base that agree, by mean square, where they vary most"
    paper = "Wan et al. 2024, arXiv 2408.07990"
    semantics = (PAPER, MERGEKIT)

    select_topk = Parameter(1.0, "share of elements that survives", low=0, high=1, per_tensor=True)
    fallback = Parameter(
        False, "equal weights where all changes are small", by_semantics={MERGEKIT: True}
    )
    int8_mask = an_int8_mask()

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        least = 1e-6 if parameters["fallback"] else 0.0

        def share(mean_squares: Sequence[float]) -> list[float]:
            total = math.fsum(mean_squares)
            if total < least or total == 0:
                return [1 / len(mean_squares)] * len(mean_squares)
            return [one / total for one in mean_squares]

        return Rule(
            *(Gate.VARIANCE, Vote.UNWEIGHTED_SUM, Blend.CLAMPED_MEAN_OF_AGREEING, Zero.POSITIVE),
            *(Scope.TENSOR, Equal.FIRST),
            survey=SurveyRule("variances", solve=share),
        )
