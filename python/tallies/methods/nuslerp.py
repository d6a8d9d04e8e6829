"""NuSLERP: SLERP with weights, of models or of task vectors."""

from __future__ import annotations

from ..linalg.gram import Gram
from ..spec.choices import MERGEKIT, PAPER, Scope, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Rule
from ._arcs import concern, concern_of_rows
from ._method import Method, linear_rule
from .slerp import on_arc, on_line


class NuSlerp(Method):
    """Move from one model or task vector to another, along the arc between them, by weights.

    With a base x_t = f_t - base and out = base + scale * y, else x_t = f_t and out = scale * y; y =
    (sin((1 - t) w) x_1 + sin(t w) x_2) / sin w with t = w_2 / (w_1 + w_2) and the angle w between
    both vectors, for each tensor, or for each row of the last dimension (``flatten: false``), or
    with ``nuslerp_row_wise`` as well, mergekit's, for each vector along the first dimension: the
    columns of a matrix, whose inner products are summed on one thread.

    The arc is a straight line only where sin w <= 1e-8, for parallel and for opposite vectors;
    ``slerp`` takes a line earlier. Weights whose sum is below 1e-6 in magnitude count as equal. A
    vector of zero is at right angles to every other. A NaN or infinity is an error unless the
    merge's ``nonfinite`` says otherwise.

    Goddard et al., mergekit, 2024, arXiv 2403.13257.
    """

    name = "nuslerp"
    formula = (
        "out = base + scale * (sin((1 - t) w) x_1 + sin(t w) x_2) / sin w, t = w_2 / (w_1 + w_2)"
    )
    paper = "Goddard et al. 2024, arXiv 2403.13257"
    needs_base = False
    base_is_optional = True
    semantics = (PAPER, MERGEKIT)
    least_models = most_models = 2

    weight = Parameter(1.0, "weight of the model", per_model=True, by_semantics={MERGEKIT: None})
    scale = Parameter(1.0, "factor on y", per_tensor=True, aliases=("lambda",))
    flatten = Parameter(True, "angles of tensors; false: of rows", aliases=("nuslerp_flatten",))
    nuslerp_row_wise = Parameter(
        False, "with flatten false: angles along the first dimension", semantics=(MERGEKIT,)
    )

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        if parameters["flatten"]:
            return linear_rule(coefficients, concern=concern)
        scope = Scope.COLUMN if parameters.get("nuslerp_row_wise") else Scope.ROW
        return linear_rule(coefficients, scope, concern=concern_of_rows)


def coefficients(gram: Gram, parameters: Values) -> list[float]:
    """Return the coefficients of both vectors."""
    one, other = parameters["weight"]
    t = other / (one + other) if abs(one + other) >= 1e-6 else 0.5
    cosine = gram.cosine(0, 1)
    return on_line(t) if 1 - cosine**2 <= 1e-16 else on_arc(cosine, t)
