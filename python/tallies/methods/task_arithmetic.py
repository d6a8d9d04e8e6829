"""Add scaled task vectors to the base."""

from __future__ import annotations

from ..spec.choices import MERGEKIT, PAPER, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, Vote
from ._method import Method, mean_objection
from ._parameters import a_scale, a_weight, an_int8_mask


class TaskArithmetic(Method):
    """Add the weighted sum of the task vectors to the base.

    x_t = f_t - base; out = base + scale * sum_t w_t x_t, the sum divided by sum_t w_t when
    ``normalize`` is true. A negative weight or scale unlearns a task.

    Sums run in float32 in the order of the experts. Zeros and equal values are ordinary terms: an
    entry that no expert moved keeps the base's value. A NaN or infinity is an error, or reaches the
    result where the merge's ``nonfinite`` allows it. Weights that sum to zero are refused with
    ``normalize``.

    Ilharco et al., Editing models with task arithmetic, 2023, arXiv 2212.04089.
    """

    name = "task_arithmetic"
    formula = "out = base + scale * sum_t w_t (f_t - base)"
    paper = "Ilharco et al. 2023, arXiv 2212.04089"
    semantics = (PAPER, MERGEKIT)

    weight = a_weight()
    scale = a_scale()
    normalize = Parameter(False, "divide by the sum of the weights")
    int8_mask = an_int8_mask()

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        blend = Blend.MEAN if parameters["normalize"] else Blend.SUM
        return Rule(Gate.ALL, Vote.NONE, blend)

    @classmethod
    def objection(cls, parameters: Values) -> str | None:
        return mean_objection(parameters)
