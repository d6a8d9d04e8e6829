"""PCB: score entries by size and agreement, and average by the scores."""

from __future__ import annotations

from ..spec.choices import Scope, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Agreement, Blend, Gate, Rule, SurveyRule, Vote
from ._method import Method
from ._parameters import a_scale, a_weight

_VARIANTS = {"global": (1e-4, Agreement.SUM), "vision": (0.01, Agreement.SIGNS)}
"""The share that is clipped, and the quantity that entries agree with."""
_MOST_MODELS = 88


class Pcb(Method):
    """Average the task vectors weighted by scores of size and agreement; only the largest count.

    x_t = f_t - base over the whole model; a_t = |x_t| clipped to its own order statistics; n_t =
    a_t scaled to [0, 1]; score_t = exp(N n_t^2) tanh(x_t c); s_t = score_t scaled so that the (1 -
    ratio) quantile is 0 and the largest 1, and 0 below; out = base + scale * sum_t s_t w_t
    sign(x_t) a_t / max(sum_t s_t, 1e-12).

    The authors have two programs (``variant``): ``global`` clips 1e-4 of the magnitudes at either
    end and takes c = sum_s x_s; ``vision`` clips 0.01, takes c = sum_s sign(x_s) n_s, and sets
    every weight to 1.2 (``weight: 1.2`` here). Zeros stay zero. n_t is 0 where all magnitudes of an
    expert are equal, and s_t is 0 where all scores are equal. If sum_s x_s is NaN or infinite, the
    result is too, which is an error unless ``nonfinite`` says otherwise, and scores are 0. At most
    88 models are merged.

    Du et al., Parameter Competition Balancing for Model Merging, 2024, arXiv 2410.02396.
    """

    name = "pcb"
    formula = "out = base + scale * sum_t s_t w_t x_t / sum_t s_t, s_t the largest scores"
    paper = "Du et al. 2024, arXiv 2410.02396"
    keeps_one_expert = False

    ratio = Parameter(0.2, "share of the scores that counts", low=0, high=1)
    variant = Parameter("global", "program of the authors", choices=("global", "vision"))
    weight = a_weight()
    scale = a_scale()

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        clip, agreement = _VARIANTS[parameters["variant"]]
        facts = {"ratio": parameters["ratio"], "clip": clip}
        return Rule(
            *(Gate.SCORE, Vote.NONE, Blend.SCORE_WEIGHTED_MEAN),
            agreement=agreement,
            survey=SurveyRule("scores", Scope.MODEL, facts=facts),
        )

    @classmethod
    def objection(cls, parameters: Values) -> str | None:
        n = len(parameters["weight"])
        too_many = f"found {n} models, expected at most {_MOST_MODELS}: exp({n}) overflows float32"
        return too_many if n > _MOST_MODELS else None
