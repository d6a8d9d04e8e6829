"""Consensus merging of the sum of the task vectors."""

from __future__ import annotations

from ..spec.choices import Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, Vote
from ._method import Method
from ._parameters import a_scale


class ConsensusTa(Method):
    """Add the sum of the task vectors where at least k tasks claim an element.

    x_t = f_t - base; m = sum_t x_t; task t claims an element where |x_t| > mask_lambda |m - x_t|;
    out = base + scale * m where at least k tasks claim the element, the base elsewhere.

    k = 0 keeps all of m, k = 1 drops elements that no task claims, k = 2 also drops elements that
    one task alone claims, and a k above the number of tasks drops everything. The claim is strict:
    no task claims an element that is zero in all x_t, and of equal magnitudes each is compared by
    itself. A NaN or infinity is an error unless the merge's ``nonfinite`` says otherwise.

    Wang et al., Localizing Task Information (Consensus TA), 2024, arXiv 2405.07813.
    """

    name = "consensus_ta"
    formula = "out = base + scale * m where k tasks have |x_t| > mask_lambda |m - x_t|"
    paper = "Wang et al. 2024, arXiv 2405.07813"

    k = Parameter(2, "tasks that must claim an element", low=0, high=256, whole=True)
    mask_lambda = Parameter(0.4, "factor in the claim; smaller claims more", low=0, per_model=True)
    weight = Parameter(1.0, "weight of the task vector in m", per_model=True)
    scale = a_scale()

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return Rule(Gate.ALL, Vote.NONE, Blend.SUM, at_least=int(parameters["k"]))
