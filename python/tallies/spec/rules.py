"""The choices that make a method: gate, vote, blend, and the rule that has all three."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..linalg.gram import Gram
from .choices import Equal, Rescale, Scope
from .parameters import Values


class Gate(enum.Enum):
    """Which entries of each task vector stay."""

    ALL = "all"
    MAGNITUDE = "magnitude"
    RANDOM = "random"
    """Each entry by itself with a probability: a function of seed, expert, tensor and element."""
    RANK = "rank"
    """The same, the larger its magnitude among those of its row the more likely."""
    BAND = "band"
    """Those that are neither too small nor too large; ``scope`` may be ``row``."""
    ABOVE = "above"
    """Entries of a magnitude above ``Rule.epsilon``."""
    SPREAD = "spread"
    """The elements on which the experts differ most; one choice for all experts."""
    SCORE = "score"
    """Entries by a score of their size and their agreement with all experts."""


class Vote(enum.Enum):
    """Who elects the sign of an element."""

    NONE = "none"
    SUM = "sum"
    COUNT = "count"
    UNWEIGHTED_SUM = "unweighted_sum"
    UNWEIGHTED_COUNT = "unweighted_count"


class Blend(enum.Enum):
    """How the survivors of an element become one value."""

    SUM = "sum"
    MEAN = "mean"
    SUM_OF_AGREEING = "sum_of_agreeing"
    MEAN_OF_AGREEING = "mean_of_agreeing"
    WEIGHTED_MEAN_OF_AGREEING = "weighted_mean_of_agreeing"
    LARGEST_AGREEING = "largest_agreeing"
    CLAMPED_MEAN_OF_AGREEING = "clamped_mean_of_agreeing"
    """The weighted one with a divisor of at least 1e-6."""
    ALONE_OR_MEAN = "alone_or_mean"
    """Weight times value where one expert's entry stays, else the mean of those that do."""
    SCORE_WEIGHTED_MEAN = "score_weighted_mean"


BLENDS_OF_AGREEING = {
    "mean": Blend.MEAN_OF_AGREEING,
    "sum": Blend.SUM_OF_AGREEING,
    "max": Blend.LARGEST_AGREEING,
    "weighted_mean": Blend.WEIGHTED_MEAN_OF_AGREEING,
}
"""The blends by the names that ``tallies.kernels`` and fusion_bench give them."""


class Zero(enum.Enum):
    """Which sign an exactly zero vote takes; MAJORITY is that of the scope's elected signs."""

    MAJORITY = "majority"
    POSITIVE = "positive"
    NEGATIVE = "negative"
    DROP = "drop"


@dataclass(frozen=True)
class Scoring:
    """How the entries of ``Gate.SCORE`` are scored."""

    ratio: float
    """The share of an expert's scores that counts."""
    clip: float
    """The share of its magnitudes that is clipped at either end."""
    company: str
    """What an entry agrees with: the experts' ``sum``, or their ``signs`` times their sizes."""


@dataclass(frozen=True)
class Coefficients:
    """How the weights of a combine follow from inner products that a survey finds before it."""

    solve: Callable[[Gram, Values], list[float]]
    """From the inner products and the tensor's parameters; ValueError where there is no answer."""
    scope: Scope = Scope.TENSOR
    """What the inner products are of: ``model``, ``tensor``, or ``row`` of the last dimension."""
    magnitudes: bool = False
    """Whether sums of magnitudes are needed as well."""


@dataclass(frozen=True)
class Rule:
    """What the native kernel does with one tensor, and how ranks are counted for it."""

    gate: Gate
    vote: Vote
    blend: Blend
    zero: Zero = Zero.MAJORITY
    scope: Scope = Scope.MODEL
    equal: Equal = Equal.KEEP
    rescale: Rescale = Rescale.NONE
    """What survivors of a stage are multiplied by: ``probability``, the inverse of their chance to
    stay; ``l1``, what restores the sum of magnitudes of each tensor; ``none``."""
    trim: float = 1.0
    """The share of each expert's entries, over the model, that stays of what is drawn."""
    at_least: int = 0
    """Tasks that must claim an element, where the parameters have a ``mask_lambda``."""
    coefficients: Coefficients | None = None
    """Where the weights come from, unless they are given."""
    epsilon: float = 0.0
    scoring: Scoring | None = None
    weights_of_census: Callable[[Sequence[int], Sequence[int]], list[float]] | None = None
    """The weights over the scope, of how many entries above epsilon each expert has alone and how
    many it shares."""
    weights_of_squares: Callable[[Sequence[float]], list[float]] | None = None
    """The weights of a tensor, of the mean squares of each expert's deltas that stay."""

    @property
    def n_surveys(self) -> int:
        """Surveys of all values before the combine."""
        if self.gate is Gate.SCORE:
            return 2
        selects = self.gate in (Gate.MAGNITUDE, Gate.SPREAD)
        solved = (self.weights_of_census, self.weights_of_squares, self.coefficients)
        return selects + sum(one is not None for one in solved) or int(self.survey is not None)

    @property
    def survey(self) -> Scope | None:
        """Over what something is found out before the combine: ``model``, ``tensor`` or nothing."""
        if self.coefficients is not None:
            return Scope.MODEL if self.coefficients.scope is Scope.MODEL else Scope.TENSOR
        if self.gate is Gate.SCORE or self.trim < 1:
            return Scope.MODEL
        if self.gate is Gate.MAGNITUDE or self.weights_of_census is not None:
            return self.scope
        by_tensor = self.gate is Gate.SPREAD or (
            self.gate is Gate.BAND and self.scope is Scope.TENSOR
        )
        return Scope.TENSOR if by_tensor or self.rescale is Rescale.L1 else None

    @property
    def by_rows(self) -> bool:
        """Whether an entry is compared with those of its row, along the last dimension."""
        return self.gate is Gate.RANK or (self.gate is Gate.BAND and self.scope is Scope.ROW)
