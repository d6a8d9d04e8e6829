"""Masks of each task's own largest entries over the sum of all task vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...spec.parameters import Parameter
from ...spec.rules import Blend, Gate, Rule, Vote
from ._codec import SHARED_DTYPE, Codec, Mask


class Magnitude(Codec):
    """A shared vector m, and for each task a mask of its own largest entries.

    x_t = f_t - base; m = sum_t x_t; mask_t = |x_t| >= its threshold; f_t ~ base + mask_t m.

    One threshold per task over all its parameters, counted as in TIES: k = int(P density), and
    every magnitude that reaches the (P - k)-th smallest is in, equal ones all alike.

    The baseline of Wang et al. 2024, arXiv 2405.07813.
    """

    name = "magnitude"
    formula = "f_t ~ base + (|x_t| >= threshold_t) m, m = sum_t x_t"
    paper = "baseline of Wang et al. 2024, arXiv 2405.07813"
    mask = Mask.MAGNITUDE

    density = Parameter(0.1, "share of each task vector that its mask contains", low=0, high=1)
    shared_dtype = SHARED_DTYPE

    @classmethod
    def shared_rule(cls, parameters: Mapping[str, Any]) -> Rule:
        return Rule(Gate.ALL, Vote.NONE, Blend.SUM)

    @classmethod
    def ranked_density(cls, parameters: Mapping[str, Any]) -> float:
        density: float = parameters["density"]
        return density
