"""CoDiEmb: weight checkpoints by their distance from the base."""

from __future__ import annotations

from ..linalg.gram import Gram
from ..spec.choices import Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Rule
from ._method import Method, linear_rule
from ._parameters import a_scale


class CoDiEmb(Method):
    """Average the models tensor by tensor, weighted by their distances from the base.

    x_t = f_t - base; d_t = |x_t|, Euclidean (``norm: l2``) or the sum of magnitudes (``l1``); w_t =
    d_t^exponent / sum_s d_s^exponent; out = base + scale * sum_t w_t x_t.

    The paper names the distances, but its formula and code are not public, so that norm, exponent
    and direction are parameters: ``prefer: smaller`` negates the exponent. A distance of zero has
    no weight; with ``smaller`` the distances of zero share all weight in equal parts. A NaN or
    infinity is an error unless the merge's ``nonfinite`` says otherwise, and makes its tensor NaN.

    Zhang et al., CoDiEmb, 2025, arXiv 2508.11442.
    """

    name = "codiemb"
    formula = "out = base + scale * sum_t w_t x_t, w_t = |x_t|^exponent / sum_s |x_s|^exponent"
    paper = "Zhang et al. 2025, arXiv 2508.11442"

    norm = Parameter("l2", "norm of the distance", choices=("l1", "l2"))
    exponent = Parameter(1.0, "exponent of the distance; 0 gives equal weights", low=0, high=64)
    prefer = Parameter("larger", "distances that weigh more", choices=("larger", "smaller"))
    scale = a_scale()

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return linear_rule(coefficients, magnitudes=parameters["norm"] == "l1")


def coefficients(gram: Gram, parameters: Values) -> list[float]:
    """Return each model's share; powers of ratios to the extreme distance cannot overflow."""
    distances = list(gram.magnitudes) if parameters["norm"] == "l1" else gram.norms()
    if parameters["prefer"] == "larger":
        parts = [d / (max(distances) or 1.0) for d in distances]
    else:
        least = min(distances)
        parts = [least / d if d > 0 else 1.0 for d in distances]
    powers = [part ** parameters["exponent"] for part in parts]
    return [power / (sum(powers) or 1.0) for power in powers]
