"""EMR's unified vector as a merge of its own."""

from __future__ import annotations

from ..spec.choices import Semantics
from ..spec.parameters import Values
from ..spec.rules import Blend, Gate, Rule, Vote, Zero
from ._method import Method
from ._parameters import a_scale


class Emr(Method):
    """Add, of the task vectors' entries with the sign of their sum, the largest.

    x_t = f_t - base; g = sign(sum_t x_t); out = base + scale * g max_t{|x_t| : sign(x_t) = g}.

    This is the vector that EMR shares between the tasks, without their masks and factors; ``tallies
    pack --codec emr`` keeps those too. A sum of exactly zero elects the negative sign. Zeros agree
    with neither sign; of equal magnitudes it does not matter which is taken. A NaN or infinity is
    an error unless the merge's ``nonfinite`` says otherwise.

    Huang et al., EMR-Merging: Tuning-Free High-Performance Model Merging, 2024, arXiv 2405.17461.
    """

    name = "emr"
    formula = "out = base + scale * g max_t{|x_t| : sign(x_t) = g}, g = sign(sum_t x_t)"
    paper = "Huang et al. 2024, arXiv 2405.17461"

    scale = a_scale()

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return Rule(Gate.ALL, Vote.SUM, Blend.LARGEST_AGREEING, Zero.NEGATIVE)
