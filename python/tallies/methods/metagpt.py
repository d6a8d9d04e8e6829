"""MetaGPT: task arithmetic with coefficients in proportion to squared norms."""

from __future__ import annotations

from ..linalg.gram import Gram
from ..spec.choices import Scope, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Rule
from ._method import Method, linear_rule
from ._parameters import a_scale


class MetaGpt(Method):
    """Add the task vectors to the base, each weighted by its share of the squared norms.

    x_t = f_t - base; w_t = |x_t|^2 / sum_s |x_s|^2 with norms over all merged parameters together,
    or over each tensor (``scope: tensor``); out = base + scale * sum_t w_t x_t.

    Task vectors that are all zero have weights of zero: the result is the base. Equal norms give
    equal weights. A NaN or infinity is an error unless the merge's ``nonfinite`` says otherwise,
    and then makes all weights NaN.

    Zhou et al., MetaGPT, 2024, arXiv 2406.11385.
    """

    name = "metagpt"
    formula = "out = base + scale * sum_t |x_t|^2 / sum_s |x_s|^2 * x_t"
    paper = "Zhou et al. 2024, arXiv 2406.11385"

    scale = a_scale()
    scope = Parameter(Scope.MODEL, "vector whose norms count", choices=(Scope.MODEL, Scope.TENSOR))

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return linear_rule(coefficients, scope=parameters["scope"])


def coefficients(gram: Gram, parameters: Values) -> list[float]:
    """Return the share of each vector in the squared norms."""
    squares = [gram.dot(t, t) for t in range(gram.n)]
    return [square / (sum(squares) or 1.0) for square in squares]
