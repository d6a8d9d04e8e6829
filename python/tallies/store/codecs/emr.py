"""EMR: an elected vector, one bit per parameter and task, and a factor per task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...floats import float32_sum
from ...spec.choices import Choice
from ...spec.parameters import Parameter
from ...spec.rules import Blend, Rule, Vote, Zero, trimmed
from ._codec import SHARED_DTYPE, Codec, Mask, Sums


class Ratio(Choice):
    """The author whose ratio makes a task's factor."""

    CODE = "code"
    """Means over each tensor are added up, as in the authors' code."""
    PAPER = "paper"
    """Sums over all elements, as in the paper."""


class Emr(Codec):
    """An elected vector m, and for each task a mask of where it has m's sign, and a factor.

    x_t = f_t - base; s = sign(sum_t x_t), negative where that is zero; m = s max{|x_t| : x_t has
    the sign s}; mask_t = x_t and m have the same sign; f_t ~ base + scale_t mask_t m.

    ``rescale: code`` is the authors' code, scale_t = sum over tensors of mean|x_t| / sum over
    tensors of mean|mask_t m|: a tensor of one element weighs as much as an embedding. ``rescale:
    paper`` is sum|x_t| / sum|mask_t m| over all elements. A task without a set bit has scale 1.

    Huang et al., EMR-Merging: Tuning-Free High-Performance Model Merging, 2024, arXiv 2405.17461.
    """

    name = "emr"
    formula = "f_t ~ base + scale_t (x_t m > 0) m, m = elected sign times largest agreeing |x_t|"
    paper = "Huang et al. 2024, arXiv 2405.17461"
    mask = Mask.SAME_SIGN
    with_sums = True

    rescale = Parameter(
        Ratio.CODE,
        "ratio that makes the factors: the authors' code's or the paper's",
        choices=(*Ratio,),
    )
    shared_dtype = SHARED_DTYPE

    @classmethod
    def shared_rule(cls, parameters: Mapping[str, Any]) -> Rule:
        return trimmed(Vote.SUM, Blend.LARGEST_AGREEING, Zero.NEGATIVE)

    @classmethod
    def scales(
        cls, parameters: Mapping[str, Any], sums: Sequence[Sums], n_tasks: int
    ) -> list[float]:
        by_code = parameters["rescale"] == Ratio.CODE
        scales = []
        for task in range(n_tasks):
            own, kept = (
                math.fsum(
                    row[task] / (one.n_elements if by_code else 1)
                    for one, row in rows
                    if one.n_elements
                )
                for rows in (
                    [(one, one.x) for one in sums],
                    [(one, one.m_in_mask) for one in sums],
                )
            )
            scales.append(float32_sum([own / kept]) if kept else 1.0)
        return scales
