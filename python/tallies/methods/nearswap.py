"""NearSwap: take over the values of a second model where they are near the first one's."""

from __future__ import annotations

from ..spec.choices import MERGEKIT, PAPER, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, Vote
from ._method import Method


class NearSwap(Method):
    """Take the second model's value where it is within t of the first, and move by t elsewhere.

    w = t / |f_1 - f_2|, between 0 and 1; out = w f_2 + (1 - w) f_1, element by element.

    A ``base_model`` is the first model; without one the first model of the list is. The distance
    counts as 1e-6 at least, so that equal values stay what they are; t of zero gives the first
    model. Float32 takes the reciprocal of the distance times t, as mergekit does, to the bit. A NaN
    or infinity is an error unless the merge's ``nonfinite`` says otherwise.

    Alchemonaut, NearSwap, 2024, https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001.
    """

    name = "nearswap"
    formula = "out = w f_2 + (1 - w) f_1, w = t / |f_1 - f_2| between 0 and 1"
    paper = "Alchemonaut 2024, https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001"
    needs_base = False
    base_is_first = True
    semantics = (PAPER, MERGEKIT)
    has_order = True
    keeps_one_expert = False
    least_models = most_models = 2

    t = Parameter(None, "distance from the first model that is gone", per_tensor=True)

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        return Rule(Gate.ALL, Vote.NONE, Blend.SWAPPED)
