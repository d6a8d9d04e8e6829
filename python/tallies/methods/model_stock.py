"""Model Stock: move towards the average by the angle between the models."""

from __future__ import annotations

import itertools
import math
from functools import partial

from ..linalg.gram import Gram
from ..spec.choices import FUSIONBENCH, MERGEKIT, PAPER, Scope, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Rule
from ._method import Method, linear_rule
from ._parameters import a_scale


class ModelStock(Method):
    """Move from the base towards the average, the further the more the task vectors agree.

    x_t = f_t - base; c = mean over pairs of cos(x_s, x_t); r = N c / (1 + (N - 1) c); out = base +
    scale * r * sum_t x_t / N, for each tensor, or for each row of the last dimension
    (``filter_wise``). ``average: angles`` takes the cosine of the mean angle; for two models both
    averages are the same.

    A task vector of zero is at right angles to all others. If 1 + (N - 1) c is below 1e-6 in
    magnitude the result is the base. A NaN or infinity is an error unless the merge's ``nonfinite``
    says otherwise. mergekit's cosines divide by 1e-6 at least; fusionbench averages angles, and its
    cosines divide by the norms + 1e-8: both make the cosines of short task vectors too small.

    Jang et al., Model Stock, 2024, arXiv 2403.19522.
    """

    name = "model_stock"
    formula = "out = base + scale * N c / (1 + (N - 1) c) * mean of x_t, c the mean cosine of pairs"
    paper = "Jang et al. 2024, arXiv 2403.19522"
    semantics = (PAPER, MERGEKIT, FUSIONBENCH)
    least_models = 2

    average = Parameter(
        "cosines", "average over pairs", choices=("cosines", "angles"), semantics=(PAPER,)
    )
    filter_wise = Parameter(False, "one ratio for each row", semantics=(PAPER, MERGEKIT))
    scale = a_scale()

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        scope = Scope.ROW if parameters.get("filter_wise") else Scope.TENSOR
        return linear_rule(partial(coefficients, semantics=semantics), scope=scope)


def coefficients(gram: Gram, parameters: Values, semantics: Semantics) -> list[float]:
    """Return the ratio in equal parts."""
    n, pairs = gram.n, itertools.combinations(range(gram.n), 2)
    angles = semantics is FUSIONBENCH or parameters.get("average") == "angles"
    least, more = (
        (1e-6 if semantics is MERGEKIT else 0),
        (1e-8 if semantics is FUSIONBENCH else 0),
    )
    cosines = [gram.cosine(s, t, least, more) for s, t in pairs]
    terms = [math.acos(c) for c in cosines] if angles else cosines
    mean = math.fsum(terms) / len(terms)
    c = math.cos(mean) if angles else mean
    below = 1 + (n - 1) * c
    return [c / below if abs(below) >= 1e-6 else 0.0] * n
