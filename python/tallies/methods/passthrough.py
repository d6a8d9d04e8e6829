"""One model as it is, or its layers stacked."""

from __future__ import annotations

from ..spec.choices import MERGEKIT, PAPER, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, Vote
from ._method import Method


class Passthrough(Method):
    """Take one model as it is; with slices, stack layers of one or several models.

    out = scale * f

    Tensors are copied bit for bit where the scale is 1 and the dtype stays, NaN and infinities
    included. Other tensors are computed in float32 and rounded once. There a NaN or infinity is an
    error, or reaches the result where the merge's ``nonfinite`` allows it, and a zero has no sign.

    The method of mergekit, Goddard et al. 2024, arXiv 2403.13257, and of depth up-scaling, Kim et
    al., SOLAR 10.7B, 2023, arXiv 2312.15166.
    """

    name = "passthrough"
    formula = "out = scale * f"
    paper = "Kim et al. 2023, arXiv 2312.15166"
    needs_base = False
    most_models = 1
    semantics = (PAPER, MERGEKIT)
    copies_alone = True

    scale = Parameter(1.0, "factor on the model's values", per_model=True)

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return Rule(Gate.ALL, Vote.NONE, Blend.SUM)
