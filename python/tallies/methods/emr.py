"""Merge by the unified vector of EMR."""

from __future__ import annotations

from ..spec.choices import Semantics
from ..spec.parameters import Values
from ..spec.rules import Blend, Gate, Rule, Vote, Zero
from ._method import Method
from ._parameters import a_scale


class Emr(Method):
    """Add the largest of the task vectors' entries with the sign of their sum.

    x_t = f_t - base; g = sign(sum_t x_t); out = base + scale * g max_t{|x_t| : sign(x_t) = g}.

    EMR shares this vector between the tasks; ``tallies pack --codec emr`` keeps the masks and
    factors of each task too. A sum of exactly zero elects the negative sign. Zeros agree with
    neither sign. Entries of equal magnitude give the same result. A NaN or infinity is an error
    unless the merge's ``nonfinite`` says otherwise.

    Huang et al., EMR-Merging: Tuning-Free High-Performance Model Merging, 2024, arXiv 2405.17461.
    """

    name = "emr"
    formula = "out = base + scale * g max_t{|x_t| : sign(x_t) = g}, g = sign(sum_t x_t)"
    paper = "Huang et al. 2024, arXiv 2405.17461"

    scale = a_scale()

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return Rule(Gate.ALL, Vote.SUM, Blend.LARGEST_AGREEING, Zero.NEGATIVE)
