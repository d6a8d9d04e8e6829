"""RAM: keep the changes of one expert alone whole, and average shared changes."""

from __future__ import annotations

from ..spec.choices import MERGEKIT, PAPER, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, Vote
from ._method import Method


class Ram(Method):
    """Add the changes of one expert alone, and the mean of the changes of several.

    x_t = f_t - base; A = {t : |x_t| > epsilon}; out = base + sum_{t in A} x_t / |A|.

    The comparison is strict and ``epsilon`` absolute: neighbours in bfloat16 near 0.02 are 1.2e-4
    apart, so that the default drops exact zeros alone there. Each x_t is divided before the sum, in
    the order of the experts; equal magnitudes are ordinary terms. A NaN or infinity is an error
    unless the merge's ``nonfinite`` says otherwise. mergekit computes the same.

    Reinforced Agent Merging, 2026, arXiv 2601.13572, as mergekit 0.1.5 computes it.
    """

    name = "ram"
    formula = "out = base + mean of the f_t - base larger than epsilon"
    paper = "Reinforced Agent Merging 2026, arXiv 2601.13572"
    semantics = (PAPER, MERGEKIT)

    epsilon = Parameter(1e-5, "magnitudes above it are changes", low=0, aliases=("eps",))

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        epsilon = parameters["epsilon"]
        return Rule(Gate.ABOVE, Vote.NONE, Blend.ALONE_OR_MEAN, epsilon=epsilon)
