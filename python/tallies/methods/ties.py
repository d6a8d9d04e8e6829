"""TIES: trim, elect signs, merge what agrees."""

from __future__ import annotations

from typing import Any

from ._spec import Blend, Gate, Method, Parameter, Rule, Vote, Zero

_PAPER = ("paper",)


class Ties(Method):
    """Trim each task vector, elect a sign per element, average the values that agree.

    y_t = w_t trim(f_t - base); s = sign(sum_t y_t); out = base + scale * mean{y_t : sign(y_t) = s}.

    Equal magnitudes at the threshold all stay (``equal: keep``), or the first in order so that
    exactly k stay (``equal: first``). Zeros never agree and never count. A sum of exactly zero
    takes the majority of the elected signs over the scope, and the negative sign when that is zero
    too. A NaN or infinity is an error unless the merge's ``nonfinite`` says otherwise. Without
    ``normalize`` the values that agree are summed.

    With mergekit semantics the trim is per tensor and keeps max(1, int(n * density)), none for
    density 0; a zero sum is positive; the mean is sum y / sum w over what agrees.

    Yadav et al., TIES-Merging, 2023, arXiv 2306.01708.
    """

    name = "ties"
    formula = "out = base + scale * mean of the trimmed w_t (f_t - base) that have the elected sign"
    paper = "Yadav et al. 2023, arXiv 2306.01708"
    semantics = ("paper", "mergekit")

    density = Parameter(
        0.2, "share that stays", low=0, high=1, per_model=True, by_semantics={"mergekit": 1.0}
    )
    weight = Parameter(1.0, "weight of the task vector", per_model=True)
    scale = Parameter(1.0, "factor on the merged task vector", per_tensor=True, aliases=("lambda",))
    scope = Parameter(
        "model", "ranks and majority over", choices=("model", "tensor"), semantics=_PAPER
    )
    equal = Parameter(
        "keep", "equal magnitudes at the threshold", choices=("keep", "first"), semantics=_PAPER
    )
    normalize = Parameter(True, "mean of what agrees; false: the sum")
    int8_mask = Parameter(False, "mergekit's; without effect: how it stores masks")

    @classmethod
    def rule(cls, parameters: dict[str, Any], semantics: str) -> Rule:
        mergekit = semantics == "mergekit"
        mean = Blend.WEIGHTED_MEAN_OF_AGREEING if mergekit else Blend.MEAN_OF_AGREEING
        blend = mean if parameters["normalize"] else Blend.SUM_OF_AGREEING
        if mergekit:
            return Rule(Gate.MAGNITUDE, Vote.SUM, blend, Zero.POSITIVE, "tensor", "first")
        scope, equal = parameters["scope"], parameters["equal"]
        return Rule(Gate.MAGNITUDE, Vote.SUM, blend, Zero.MAJORITY, scope, equal)
