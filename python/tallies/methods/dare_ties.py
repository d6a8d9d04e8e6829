"""DARE before TIES: drop at random, rescale, elect signs, merge what agrees."""

from __future__ import annotations

from typing import Any

from ._spec import Blend, Gate, Method, Parameter, Rule, Vote, Zero


class DareTies(Method):
    """Drop each entry of the task vectors at random, elect signs, average what agrees.

    y_t = w_t drop(f_t - base) / density; s = sign(sum_t y_t); out = base + scale * mean{y_t :
    sign(y_t) = s}, the sum without ``normalize``. The drop takes the place of the trim of TIES.

    The drop, its random numbers and ``rescale`` are those of ``dare_linear``; equal magnitudes are
    ordinary. Zeros never agree and never count. A sum of exactly zero takes the majority of the
    elected signs over the model, and the negative sign when that is zero too. A NaN is never
    dropped, and is an error unless the merge's ``nonfinite`` says otherwise.

    With mergekit semantics what agrees is summed, or with ``normalize`` divided by the sum of its
    weights; a zero sum is positive; ``rescale`` is ``l1``.

    Yu et al., Language Models are Super Mario, 2023, arXiv 2311.03099.
    """

    name = "dare_ties"
    formula = "out = base + scale * mean of the w_t drop(f_t - base) / density of the elected sign"
    paper = "Yu et al. 2023, arXiv 2311.03099"
    semantics = ("paper", "mergekit")
    has_order = True

    density = Parameter(
        0.1, "chance to stay", low=0, high=1, per_model=True, by_semantics={"mergekit": 1.0}
    )
    weight = Parameter(1.0, "weight of the task vector", per_model=True)
    scale = Parameter(1.0, "factor on the merged task vector", per_tensor=True, aliases=("lambda",))
    rescale = Parameter(
        "probability",
        "what stays is scaled by",
        choices=("probability", "l1", "none"),
        switch=True,
        by_semantics={"mergekit": "l1"},
    )
    normalize = Parameter(
        True, "mean of what agrees; false: the sum", by_semantics={"mergekit": False}
    )
    int8_mask = Parameter(False, "mergekit's; without effect: how it stores masks")

    @classmethod
    def rule(cls, parameters: dict[str, Any], semantics: str) -> Rule:
        mergekit = semantics == "mergekit"
        mean = Blend.WEIGHTED_MEAN_OF_AGREEING if mergekit else Blend.MEAN_OF_AGREEING
        blend = mean if parameters["normalize"] else Blend.SUM_OF_AGREEING
        zero = Zero.POSITIVE if mergekit else Zero.MAJORITY
        return Rule(Gate.RANDOM, Vote.SUM, blend, zero, rescale=parameters["rescale"])
