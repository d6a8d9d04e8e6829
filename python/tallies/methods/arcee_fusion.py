"""Arcee Fusion: take the entries of a second model that matter most."""

from __future__ import annotations

from ..spec.choices import MERGEKIT, PAPER, Semantics
from ..spec.parameters import Values
from ..spec.rules import Blend, Gate, Rule, SurveyRule, Vote
from ._method import Method


class ArceeFusion(Method):
    """Take over the entries whose importance is far above that of most others of their tensor.

    x = f - base; importance = |x| d, where d of a row (a vector along the last dimension) is the
    divergence sum p log(p / q) of p = softmax(f) + 1e-8 from q = softmax(base) + 1e-8; out = base +
    x where the importance is at least q2 + 1.5 (q3 - q1), the quartiles of the tensor's, else base.

    The quartile q of n entries is number int(q (n - 1)) from the smallest, counted from 0. Entries
    that equal the threshold are taken, so that a tensor whose importances are all zero is the
    expert's. Softmax, logarithm and sums are float64, and a divergence that rounding makes negative
    is zero; importance and threshold are float32. Every quartile is exact. mergekit takes
    divergences in float32, where those of usual fine-tunes are largely rounding errors, and draws a
    million entries at random where a tensor has more: it selects other entries near the threshold,
    and others each time. A NaN or infinity is an error unless the merge's ``nonfinite`` says
    otherwise.

    Arcee Fusion, 2025, https://docs.arcee.ai, as mergekit 0.1.5 computes it.
    """

    name = "arcee_fusion"
    formula = "out = f where |f - base| KL(f, base) >= q2 + 1.5 (q3 - q1), else base"
    paper = "Arcee 2025, https://docs.arcee.ai"
    semantics = (PAPER, MERGEKIT)
    keeps_one_expert = False
    most_models = 1

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return Rule(Gate.IMPORTANCE, Vote.NONE, Blend.SUM, survey=SurveyRule("importances"))
