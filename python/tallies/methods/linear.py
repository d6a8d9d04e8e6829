"""Average whole weights (model soups)."""

from __future__ import annotations

from ..spec.choices import MERGEKIT, PAPER, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, Vote
from ._method import Method, mean_objection
from ._schedules import a_count, a_decay, a_schedule, weights_by_order


class Linear(Method):
    """Average the models' weights; no base takes part.

    out = sum_t w_t f_t / sum_t w_t, without the division when ``normalize`` is false. A model that
    is itself such a sum, of models whose weights have the sum c, counts as them with ``count: c``:
    its w_t in the divisor is w_t c.

    A ``schedule`` weighs checkpoints of one run by their order, t = 1 the oldest, t = n the newest:

    * constant: w_t is the model's ``weight``, 1 unless given
    * linear: w_t = 2 t / (n (n + 1)), a weighted moving average
    * 1-sqrt, which is also called minus-sqrt: w_t = sqrt(t / n) - sqrt((t - 1) / n)
    * ema: w_1 = decay^(n - 1), and w_t = (1 - decay) decay^(n - t) of the others

    An average stands for a decay of the learning rate: it is the first checkpoint plus each later
    step times the sum of the weights behind it. Equal weights stand for the linear decay 1 - t / n,
    1-sqrt for 1 - sqrt(t / n), ema for an exponential one (Tian et al., WSM, 2025, arXiv
    2507.17634). For 4 checkpoints, 1-sqrt weighs 0.5, 0.207, 0.159 and 0.134. A weight that is
    given beside a schedule must be the schedule's own.

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
    count = a_count()
    normalize = Parameter(True, "divide by the sum of the weights")
    schedule = a_schedule()
    decay = a_decay()

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        if semantics is MERGEKIT:
            blend = Blend.FUSED_MEAN if parameters["normalize"] else Blend.FUSED_SUM
        else:
            blend = Blend.MEAN if parameters["normalize"] else Blend.SUM
        return Rule(Gate.ALL, Vote.NONE, blend)

    @classmethod
    def by_order(cls, parameters: Values, n_models: int) -> list[dict[str, float]] | None:
        return weights_by_order(parameters, n_models)

    @classmethod
    def objection(cls, parameters: Values) -> str | None:
        return mean_objection(parameters)
