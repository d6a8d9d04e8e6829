"""Multi-SLERP: the direction of a weighted mean of directions, at the mean length."""

from __future__ import annotations

from ..linalg.gram import Gram
from ..spec.choices import MERGEKIT, PAPER, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Rule
from ._arcs import concern
from ._method import Method, linear_rule, mean_objection


class MultiSlerp(Method):
    """Average directions on the unit sphere, and lengths by themselves.

    With a base x_t = f_t - base and out = base + scale * y, else x_t = f_t and out = scale * y; for
    each tensor, with u_t = x_t / |x_t| and a_t = w_t / sum_s w_s (``normalize: false``: w_t): y =
    sum_t a_t |x_t| * sum_t a_t u_t / |sum_t a_t u_t|.

    The published step in the tangent space at that mean adds rounding alone: the weighted
    projections cancel there. If the weighted directions cancel (below 1e-7), two vectors are
    averaged on the straight line and more are an error. A vector of zero has no direction; where
    all vectors are zero, y is zero. In mergekit one vector alone is y, whatever its weight. A NaN
    or infinity is an error unless the merge's ``nonfinite`` says otherwise.

    Goddard, Multi-SLERP, 2025, https://goddard.blog/posts/multislerp-wow-what-a-cool-idea.
    """

    name = "multislerp"
    formula = "out = base + scale * (sum_t a_t |x_t|) * unit vector along sum_t a_t x_t / |x_t|"
    paper = "Goddard 2025, https://goddard.blog/posts/multislerp-wow-what-a-cool-idea"
    needs_base = False
    base_is_optional = True
    semantics = (PAPER, MERGEKIT)

    weight = Parameter(1.0, "weight of the model", per_model=True, by_semantics={MERGEKIT: None})
    normalize = Parameter(True, "divide the weights by their sum", aliases=("normalize_weights",))
    scale = Parameter(1.0, "factor on y", per_tensor=True, aliases=("lambda",))
    eps = Parameter(1e-8, "mergekit's addend to norms", low=0, semantics=(MERGEKIT,))

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return linear_rule(coefficients, concern=concern)

    @classmethod
    def objection(cls, parameters: Values) -> str | None:
        return mean_objection(parameters)


def coefficients(gram: Gram, parameters: Values) -> list[float]:
    """Return the coefficients; ValueError where the directions of three or more cancel."""
    if gram.n == 1 and "eps" in parameters:
        return [1.0]
    weights, norms, eps = parameters["weight"], gram.norms(), parameters.get("eps", 0.0)
    total = sum(weights) if parameters["normalize"] else 1.0
    shares = [weight / total for weight in weights]
    mean = [a / (norm + eps) if norm > 0 else 0.0 for a, norm in zip(shares, norms, strict=True)]
    direction, size = gram.unit(mean)
    if size > 1e-7:
        length = sum(a * norm for a, norm in zip(shares, norms, strict=True))
        return [one * length for one in direction]
    if gram.n > 2 and any(norms):
        raise ValueError("the weighted directions of the models cancel; change the weights")
    return shares
