"""SLERP: move from one model to another along the arc between them."""

from __future__ import annotations

import math

from ..linalg.gram import Gram
from ..spec.choices import FUSIONBENCH, MERGEKIT, PAPER, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Rule
from ._arcs import concern
from ._method import Method, linear_rule


class Slerp(Method):
    """Move the share t from the first model to the second, along the arc between them.

    For each tensor, with the angle w between the models: out = (sin((1 - t) w) f_1 + sin(t w) f_2)
    / sin w. If |cos w| > 0.9995, as in models less than 3 % apart and in opposite ones: out = (1 -
    t) f_1 + t f_2.

    A ``base_model`` is the first model; without one the first model of the list is. A tensor of
    norm zero (to 1e-8) is at right angles to every other. A NaN is an error unless ``nonfinite``
    allows it.

    Shoemake, Animating rotation with quaternion curves, 1985, doi 10.1145/325334.325242.
    """

    name = "slerp"
    formula = (
        "out = sin((1 - t) w) / sin w * f_1 + sin(t w) / sin w * f_2, w the angle between them"
    )
    paper = "Shoemake 1985, doi 10.1145/325334.325242"
    needs_base = False
    base_is_first = True
    semantics = (PAPER, MERGEKIT, FUSIONBENCH)
    has_order = True
    least_models = most_models = 2

    t = Parameter(
        None,
        "share of the arc to the second model",
        low=0,
        high=1,
        per_tensor=True,
        range_by_semantics={MERGEKIT: (None, None)},
    )

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return linear_rule(coefficients, concern=concern)


def coefficients(gram: Gram, parameters: Values) -> list[float]:
    """Return the coefficients of both models."""
    if min(gram.norms()) <= 1e-8:
        return on_arc(0.0, parameters["t"])
    cosine = gram.cosine(0, 1)
    return on_line(parameters["t"]) if abs(cosine) > 0.9995 else on_arc(cosine, parameters["t"])


def on_line(t: float) -> list[float]:
    """Return the coefficients on the straight line."""
    return [1 - t, t]


def on_arc(cosine: float, t: float) -> list[float]:
    """Return the coefficients on the arc between vectors with this cosine."""
    angle = math.acos(cosine)
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]
