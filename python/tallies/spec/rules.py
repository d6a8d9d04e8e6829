"""States the choices that make a method: gate, vote, blend, and the survey that they need."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .choices import Equal, Rescale, Scope


class Gate(enum.Enum):
    """The entries of each task vector that survive."""

    ALL = "all"
    MAGNITUDE = "magnitude"
    """The largest magnitudes."""
    RANDOM = "random"
    """Each entry by itself with a probability: a function of seed, expert, tensor and element."""
    RANK = "rank"
    """The same, the larger its magnitude among those of its row the more likely."""
    BAND = "band"
    """Entries that are neither too small nor too large, of a tensor or of a row."""
    ABOVE = "above"
    """Entries of a magnitude above ``Rule.epsilon``."""
    VARIANCE = "variance"
    """The elements on which the experts differ most; one choice for all experts."""
    IMPORTANCE = "importance"
    """Entries by their size times the divergence of their row."""
    SCORE = "score"
    """Entries by a score of their size and their agreement with all experts."""


class Vote(enum.Enum):
    """The election of an element's sign."""

    NONE = "none"
    SUM = "sum"
    COUNT = "count"
    UNWEIGHTED_SUM = "unweighted_sum"
    UNWEIGHTED_COUNT = "unweighted_count"


class Blend(enum.Enum):
    """The way in which the survivors of an element become one value."""

    SUM = "sum"
    MEAN = "mean"
    SUM_OF_AGREEING = "sum_of_agreeing"
    MEAN_OF_AGREEING = "mean_of_agreeing"
    WEIGHTED_MEAN_OF_AGREEING = "weighted_mean_of_agreeing"
    LARGEST_AGREEING = "largest_agreeing"
    CLAMPED_MEAN_OF_AGREEING = "clamped_mean_of_agreeing"
    """The weighted one with a divisor of at least 1e-6."""
    ALONE_OR_MEAN = "alone_or_mean"
    """Weight times value where one expert's entry survives, else the mean of those that do."""
    SCORE_WEIGHTED_MEAN = "score_weighted_mean"
    FUSED_SUM = "fused_sum"
    """Each product is added without a rounding of its own."""
    FUSED_MEAN = "fused_mean"
    LARGEST = "largest"
    """The value of largest magnitude; of equal ones the last."""
    SWAPPED = "swapped"
    """The second of two values where it is near the first, else a point between them."""


SUMS = (Blend.SUM, Blend.FUSED_SUM)
MEANS = (Blend.MEAN, Blend.FUSED_MEAN)
"""The blends of all entries by their weights, which differ in rounding alone."""

BLENDS_OF_AGREEING = {
    "mean": Blend.MEAN_OF_AGREEING,
    "sum": Blend.SUM_OF_AGREEING,
    "max": Blend.LARGEST_AGREEING,
    "weighted_mean": Blend.WEIGHTED_MEAN_OF_AGREEING,
}
"""The blends by the names that ``tallies.kernels`` and fusion_bench give them."""


class Zero(enum.Enum):
    """The sign of a vote of exactly zero."""

    MAJORITY = "majority"
    """The sign of the sum of the scope's elected signs."""
    POSITIVE = "positive"
    NEGATIVE = "negative"
    DROP = "drop"


class Agreement(enum.Enum):
    """The quantity that an entry agrees with in a score of ``Gate.SCORE``."""

    SUM = "sum"
    """The sum of the experts' entries."""
    SIGNS = "signs"
    """The sum of their signs times their normalised sizes."""


@dataclass(frozen=True)
class SurveyRule:
    """The survey that a combine needs first."""

    name: str
    """The module of ``engine/surveys`` that has it."""
    scope: Scope = Scope.TENSOR
    """``MODEL``: the statistics hold for all tensors together. Otherwise each tensor has its own;
    ``ROW``: each row of its last dimension."""
    solve: Callable[..., list[float]] | None = None
    """Turns the statistics into weights; the survey says which it takes."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The fields of the survey beside these."""


@dataclass(frozen=True)
class Rule:
    """The work of the native kernel on one tensor, and the survey before it."""

    gate: Gate
    vote: Vote
    blend: Blend
    zero: Zero = Zero.MAJORITY
    even: int = field(default=-1, kw_only=True)
    """The sign that ``Zero.MAJORITY`` gives where the majority is zero as well."""
    scope: Scope = Scope.MODEL
    """The entries that are ranked together, and whose elected signs have a majority."""
    equal: Equal = Equal.KEEP
    rescale: Rescale = Rescale.NONE
    epsilon: float = 0.0
    """The magnitude up to which ``Gate.ABOVE`` lets no entry pass."""
    agreement: Agreement = Agreement.SUM
    at_least: int = 0
    """Tasks that must claim an element, where the parameters have a ``mask_lambda``."""
    survey: SurveyRule | None = None

    @property
    def by_rows(self) -> bool:
        """True where an entry is compared with the others of its row, along the last dimension."""
        return self.gate is Gate.RANK or (self.gate is Gate.BAND and self.scope is Scope.ROW)


def trimmed(
    vote: Vote,
    blend: Blend,
    zero: Zero = Zero.MAJORITY,
    scope: Scope = Scope.MODEL,
    equal: Equal = Equal.KEEP,
    **others: Any,
) -> Rule:
    """Return a rule of the magnitude gate, whose thresholds are found over ``scope``."""
    survey = SurveyRule("trims", scope)
    return Rule(Gate.MAGNITUDE, vote, blend, zero, scope, equal, survey=survey, **others)


def staged(
    gate: Gate,
    vote: Vote,
    blend: Blend,
    zero: Zero = Zero.MAJORITY,
    scope: Scope = Scope.MODEL,
    *,
    rescale: Rescale = Rescale.NONE,
    trim: float = 1.0,
) -> Rule:
    """Return a rule of a gate that is a stage of its own before the blend.

    Args:
        gate: ``RANDOM``, ``RANK`` or ``BAND``.
        vote: The election of signs.
        blend: The blend of the survivors.
        zero: The sign of a vote of zero.
        scope: The entries that are ranked together.
        rescale: The factor on the survivors; not ``L1`` where they are trimmed.
        trim: The share of each expert's entries, over the model, that survives of the drawn ones.
    """
    survey = None
    if trim < 1:
        survey = SurveyRule("drawn_trims", Scope.MODEL, facts={"density": trim})
    elif gate is Gate.BAND and scope is Scope.TENSOR:
        survey = SurveyRule("bands")
    elif rescale is Rescale.L1:
        survey = SurveyRule("magnitude_sums")
    return Rule(gate, vote, blend, zero, scope, rescale=rescale, survey=survey)
