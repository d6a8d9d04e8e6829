"""RAM+: RAM with a factor on the changes of one expert alone."""

from __future__ import annotations

from collections.abc import Sequence

from ..floats import float32
from ..spec.choices import MERGEKIT, PAPER, Scope, Semantics
from ..spec.parameters import Parameter, Values
from ..spec.rules import Blend, Gate, Rule, SurveyRule, Vote
from ._method import Method


class RamPlus(Method):
    """Add the amplified changes of one expert alone, and the mean of the changes of several.

    x_t = f_t - base; A = {t : |x_t| > epsilon}; out = base + l_t x_t where A = {t}, else base +
    sum_{t in A} x_t / |A|. l_t = 1 + r min(shared_t / alone_t, alpha), where alone_t and shared_t
    count the entries above epsilon that expert t has alone and shares, over each tensor or the
    model (``scope``).

    The comparison is strict; zeros and equal magnitudes are ordinary entries. An expert without
    entries of its own amplifies nothing. A NaN or infinity is an error unless the merge's
    ``nonfinite`` says otherwise. mergekit's name is ramplus_tl, which is a name of the method here
    too.

    Reinforced Agent Merging, 2026, arXiv 2601.13572, as mergekit 0.1.5 computes it; by that tool's
    documentation the paper counts over the model.
    """

    name = "ramplus"
    aliases = ("ramplus_tl",)
    formula = "out = base + l_t (f_t - base) where t alone changed it, else the mean of the changes"
    paper = "Reinforced Agent Merging 2026, arXiv 2601.13572"
    semantics = (PAPER, MERGEKIT)

    epsilon = Parameter(1e-5, "magnitudes above it are changes", low=0, aliases=("eps",))
    r = Parameter(0.1, "factor of the amplification", low=0)
    alpha = Parameter(0.2, "upper bound for shared / alone", low=0)
    scope = Parameter(
        *(Scope.TENSOR, "entries counted together"),
        choices=(Scope.MODEL, Scope.TENSOR),
        semantics=(PAPER,),
    )

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        r, alpha = float32(parameters["r"]), float32(parameters["alpha"])
        least = float32(parameters["epsilon"])

        def amplify(alone: Sequence[int], shared: Sequence[int]) -> list[float]:
            rows = zip(alone, shared, strict=True)
            rho = [float32(float32(s) / (float32(a) or least or 1.0)) for a, s in rows]
            return [float32(1 + float32(r * min(one, alpha))) for one in rho]

        scope = parameters.get("scope", Scope.TENSOR)
        return Rule(
            *(Gate.ABOVE, Vote.NONE, Blend.ALONE_OR_MEAN),
            scope=scope,
            epsilon=parameters["epsilon"],
            survey=SurveyRule("overlap_counts", scope, amplify),
        )
