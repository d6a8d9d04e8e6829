"""Consensus merging of the sum that TIES makes."""

from __future__ import annotations

from ..spec.choices import Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Rule, Vote, trimmed
from ._method import Method
from ._parameters import a_scale


class ConsensusTies(Method):
    """Add the sum that TIES makes of the task vectors where at least k tasks claim an element.

    x_t = f_t - base; m is the sum of the values that agree with the elected sign after the trim, as
    in ``ties`` with ``normalize: false``; task t claims an element where |x_t| > mask_lambda |m -
    x_t|, with the x_t before the trim; out = base + scale * m where at least k tasks claim the
    element, the base elsewhere.

    All entries of a magnitude equal to the threshold survive the trim. A vote of exactly zero takes
    the majority of the elected signs over the model. k and the claims are those of
    ``consensus_ta``. A NaN or infinity is an error unless the merge's ``nonfinite`` says otherwise.

    Wang et al., Localizing Task Information (Consensus TIES), 2024, arXiv 2405.07813.
    """

    name = "consensus_ties"
    formula = "out = base + scale * TIES sum m where k tasks have |x_t| > mask_lambda |m - x_t|"
    paper = "Wang et al. 2024, arXiv 2405.07813"

    k = Parameter(2, "tasks that must claim an element", low=0, high=256, whole=True)
    mask_lambda = Parameter(0.4, "factor in the claim; smaller claims more", low=0, per_model=True)
    density = Parameter(0.2, "share of entries that survives", low=0, high=1, per_model=True)
    weight = Parameter(1.0, "weight of the task vector in m", per_model=True)
    scale = a_scale()

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return trimmed(Vote.SUM, Blend.SUM_OF_AGREEING, at_least=int(parameters["k"]))
