"""Average whole weights (model soups)."""

from __future__ import annotations

from ..spec.choices import MERGEKIT, PAPER, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, Vote
from ._method import Method, mean_objection


class Linear(Method):
    """Average the models' weights; no base takes part.

    out = sum_t w_t f_t / sum_t w_t, without the division when ``normalize`` is false.

    Sums run in float32 in the order of the models. Zeros and equal values are ordinary terms. A NaN
    or infinity is an error, or reaches the result where the merge's ``nonfinite`` allows it.
    Weights that sum to zero are refused with ``normalize``. mergekit semantics, like that tool,
    requires every weight, and adds each product w_t f_t to the sum with one rounding for both.

    Wortsman et al., Model soups, 2022, arXiv 2203.05482.
    """

    name = "linear"
    formula = "out = sum_t w_t f_t / sum_t w_t"
    paper = "Wortsman et al. 2022, arXiv 2203.05482"
    needs_base = False
    semantics = (PAPER, MERGEKIT)

    weight = Parameter(1.0, "weight of the model", per_model=True, by_semantics={MERGEKIT: None})
    normalize = Parameter(True, "divide by the sum of the weights")

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        if semantics is MERGEKIT:
            blend = Blend.FUSED_MEAN if parameters["normalize"] else Blend.FUSED_SUM
        else:
            blend = Blend.MEAN if parameters["normalize"] else Blend.SUM
        return Rule(Gate.ALL, Vote.NONE, blend)

    @classmethod
    def objection(cls, parameters: Values) -> str | None:
        return mean_objection(parameters)
