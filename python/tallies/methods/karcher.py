"""The Karcher mean: the point of the sphere nearest to all directions."""

from __future__ import annotations

import math

from ..linalg.gram import Gram
from ..spec.choices import MERGEKIT, PAPER, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Rule
from ._arcs import concern
from ._method import Method, linear_rule


class Karcher(Method):
    """Average the models' directions along arcs of the unit sphere, and their norms apart.

    For each tensor, with u_t = f_t / |f_t|: v minimises sum_t angle(v, u_t)^2; out = v * mean of
    |f_t|. From the normalised mean of the u_t (the first, if they cancel) v moves along the arc by
    the mean of w / sin w (u_t - cos(w) v), w = angle(v, u_t), until the step is shorter than
    ``tol``.

    A tensor of norm ``tol`` or less counts for the norm alone; all of them give zero. A u_t within
    ``tol`` of v or -v does not move v. A NaN is an error unless ``nonfinite`` allows it.

    Karcher, Riemannian center of mass, 1977; for models see arXiv 2603.04972.
    """

    name = "karcher"
    formula = "out = (mean of |f_t|) * unit vector of least sum of squared angles to all f_t"
    paper = "Karcher 1977; for models arXiv 2603.04972"
    needs_base = False
    semantics = (PAPER, MERGEKIT)

    max_iter = Parameter(10, "upper bound for the steps", low=0, high=10000, whole=True)
    tol = Parameter(1e-5, "length of a step that ends the iteration", low=0)

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return linear_rule(coefficients, concern=concern)


def coefficients(gram: Gram, parameters: Values) -> list[float]:
    """Return the coefficients of the mean, found in the span of the models."""
    norms, tol = gram.norms(), parameters["tol"]
    units = [[(s == t) / n for s in range(gram.n)] for t, n in enumerate(norms) if n > tol]
    units = units or [[0.0] * gram.n]
    mean, length = gram.unit([sum(column) / len(units) for column in zip(*units, strict=True)])
    mean = mean if length >= tol else units[0]
    for _ in range(int(parameters["max_iter"])):
        move = [0.0] * gram.n
        for one in units:
            angle = gram.angle(mean, one)
            if angle > 0 and tol <= angle <= math.pi - tol:
                factor, cosine = angle / math.sin(angle) / len(units), math.cos(angle)
                along = zip(move, one, mean, strict=True)
                move = [m + factor * (u - cosine * v) for m, u, v in along]
        direction, length = gram.unit(move)
        if length < tol:
            break
        both = zip(mean, direction, strict=True)
        mean, _ = gram.unit([math.cos(length) * v + math.sin(length) * d for v, d in both])
    return [v * math.fsum(norms) / gram.n for v in mean]
