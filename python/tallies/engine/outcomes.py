"""What the passes of a merge find out, as plain data that a journal can keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .._core import StageRule


class Found(NamedTuple):
    """How one expert is trimmed over one or all tensors, and how many of its entries stay."""

    n_kept: int
    floor: int
    """Entries with bits(|x|) above it stay."""
    bits: int | None = None
    """Of the smallest magnitude that stays; None where no rank was needed."""
    last_job: int | None = None
    last_count: int = 0
    """Entries equal to it stay up to so many elements of that tensor; None: all of them stay."""


class Guessed(NamedTuple):
    """Stretches of a tensor, as first element and number, and the fingerprint of their result."""

    ranges: Sequence[Sequence[int]] = ()
    output: Sequence[int] = (0,) * 8


@dataclass
class Outcome:
    """What the passes found out about one tensor; plain data, so that a journal can keep it."""

    found: list[Found] = field(default_factory=list)
    """The tensor's own trims, one per expert; empty where they hold for the whole model."""
    weights: list[float] = field(default_factory=list)
    """Those that a survey of the tensor found; empty where they were given."""
    conflicts: int = 0
    """Elements in which survivors have both signs."""
    cancellations: int = 0
    """Those among them in which the vote is exactly zero."""
    sign_sum: int = 0
    """Elements elected positive minus elements elected negative."""
    plus: Guessed = field(default_factory=Guessed)
    """Where cancelled votes were taken for positive, and what was written there."""
    minus: Guessed = field(default_factory=Guessed)
    n_repeated: int = 0
    """Elements combined once more because the majority of the signs was guessed wrong."""
    overflow: bool = False
    coefficients: list[float] = field(default_factory=list)
    """What was solved for this tensor, one per expert, of rows the mean; else empty."""
    inputs: list[list[int]] = field(default_factory=list)
    """Content fingerprints, as eight sums of 64 bits each."""
    output: list[int] = field(default_factory=list)
    """That of the result; while votes are guessed, of where none is."""
    factors: list[float] = field(default_factory=list)
    """Of the experts, where each tensor's sum of magnitudes is restored."""


@dataclass
class Survey:
    """What was found out about a tensor before its combine; empty where nothing was."""

    found: list[Found] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    """One per expert, or as many for each row."""
    stages: list[StageRule] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    coefficients: list[float] = field(default_factory=list)
    """The weights, where they were solved for; of rows the mean."""


@dataclass(frozen=True)
class ModelSurvey:
    """What was found out about all tensors together; empty where nothing was."""

    found: list[Found] = field(default_factory=list)
    """The trims, one per expert."""
    weights: list[float] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    """What entries are scored by, one per expert."""

    def __bool__(self) -> bool:
        return bool(self.found or self.weights or self.scores)


@dataclass(frozen=True)
class Score:
    """What the scores of one expert are made of, over a whole model."""

    low: float
    high: float
    """Magnitudes are clipped to these."""
    per_width: float
    """One over the width between the two."""
    threshold: float = float("inf")
    """Scores above it count."""
    per_range: float = 1.0
    """One over the range from the threshold to the largest score."""
