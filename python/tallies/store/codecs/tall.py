"""TALL-masks: one shared vector and one bit per parameter and task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...spec.choices import Choice
from ...spec.parameters import Parameter
from ...spec.rules import Blend, Gate, Rule, Vote, trimmed
from ._codec import SHARED_DTYPE, Codec, Mask


class Shared(Choice):
    """The merge that makes the shared vector."""

    TA = "ta"
    """Task arithmetic: the sum of all task vectors."""
    TIES = "ties"
    """The sum of what agrees after the trim and election of TIES."""


class Tall(Codec):
    """A shared vector m, and for each task a mask of where m stands for its own vector.

    x_t = f_t - base; m = sum_t x_t (``shared: ta``), or the sum of what agrees after the trim and
    election of TIES (``shared: ties``); mask_t = |x_t| > lambda |m - x_t|; f_t ~ base + mask_t m.

    The test is strict: where both sides are equal, as where x_t and m are zero, the bit is clear.
    ``lambda`` is one number for all tasks, one for each, or several candidates to choose from.

    Wang et al., Localizing Task Information for Improved Model Merging and Compression, 2024,
    arXiv 2405.07813.
    """

    name = "tall"
    formula = "f_t ~ base + (|x_t| > lambda |m - x_t|) m, m = sum_t x_t"
    paper = "Wang et al. 2024, arXiv 2405.07813"
    mask = Mask.TALL

    mask_lambda = Parameter(
        0.4,
        "factor in the condition of the mask; a smaller one sets more bits",
        low=0,
        aliases=("lambda",),
    )
    shared = Parameter(Shared.TA, "merge that makes the shared vector m", choices=(*Shared,))
    density = Parameter(0.2, "share of each task vector that 'shared: ties' keeps", low=0, high=1)
    shared_dtype = SHARED_DTYPE

    @classmethod
    def shared_rule(cls, parameters: Mapping[str, Any]) -> Rule:
        if parameters["shared"] == Shared.TA:
            return Rule(Gate.ALL, Vote.NONE, Blend.SUM)
        return trimmed(Vote.SUM, Blend.SUM_OF_AGREEING)

    @classmethod
    def ranked_density(cls, parameters: Mapping[str, Any]) -> float | None:
        return parameters["density"] if parameters["shared"] == Shared.TIES else None
