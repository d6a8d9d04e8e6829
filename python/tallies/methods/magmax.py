"""MagMax: the entry of largest magnitude, of whichever expert."""

from __future__ import annotations

from ..spec.choices import Semantics
from ..spec.parameters import Values
from ..spec.rules import Blend, Gate, Rule, Vote
from ._method import Method
from ._parameters import a_scale, a_weight


class MagMax(Method):
    """Add the entry of largest magnitude among the task vectors, whatever its sign.

    y_t = w_t (f_t - base); out = base + scale * the y_t of largest |y_t|, element by element. No
    sign is elected, as ``emr`` elects one.

    Among equal magnitudes the last expert's entry wins: MagMax merges tasks in the order in which
    they were learned, so that the newest is kept. An entry of zero loses to every other. A NaN or
    infinity is an error unless the merge's ``nonfinite`` says otherwise, and then wins.

    Marczak et al., MagMax: Leveraging Model Merging for Seamless Continual Learning, 2024, arXiv
    2407.06322.
    """

    name = "magmax"
    formula = "out = base + scale * the w_t (f_t - base) of largest magnitude"
    paper = "Marczak et al. 2024, arXiv 2407.06322"
    has_order = True

    weight = a_weight()
    scale = a_scale()

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return Rule(Gate.ALL, Vote.NONE, Blend.LARGEST)
