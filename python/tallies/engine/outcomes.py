"""States what the passes of a merge find, as plain data that a journal can keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .._core import Band, CandidateResult, Draw, DropByRank, RowBand, Weighed
from .fingerprints import add_content

Stage = Draw | DropByRank | Band | RowBand | Weighed
"""The change of one expert's task vector before the blend."""


class Trim(NamedTuple):
    """The trim of one expert over one or all tensors."""

    n_kept: int
    """The number of entries that survive."""
    floor: int
    """Entries with bits(|x|) above this number survive."""
    bits: int | None = None
    """The bits of the smallest magnitude that survives; None where no rank was needed."""
    last_job: int | None = None
    """The tensor up to which entries equal to the threshold survive; None: all of them do."""
    last_count: int = 0
    """The number of that tensor's first elements in which they survive."""


class Guessed(NamedTuple):
    """Stretches of a tensor, as first element and number, and the fingerprint of their result."""

    ranges: Sequence[Sequence[int]] = ()
    output: Sequence[int] = (0,) * 8

    def joined(self, ranges: Sequence[Sequence[int]], output: Sequence[int]) -> Guessed:
        """Return these stretches and others of the same tensor."""
        lanes = list(self.output)
        add_content(lanes, output)
        return Guessed([*self.ranges, *ranges], lanes)


@dataclass
class Outcome:
    """The findings of all passes over one tensor; plain data, so that a journal can keep them."""

    trims: list[Trim] = field(default_factory=list)
    """The tensor's own trims, one per expert; empty where they hold for the whole model."""
    weights: list[float] = field(default_factory=list)
    """The weights that a survey of the tensor found; empty where they were given or solved for."""
    conflicts: int = 0
    """Elements in which survivors have both signs."""
    cancellations: int = 0
    """Conflicts in which the vote is exactly zero."""
    sign_sum: int = 0
    """Elements elected positive minus elements elected negative."""
    plus: Guessed = field(default_factory=Guessed)
    """The stretches in which cancelled votes were taken for positive."""
    minus: Guessed = field(default_factory=Guessed)
    n_repeated: int = 0
    """Elements combined once more because the majority of the signs was guessed wrong."""
    overflow: bool = False
    coefficients: list[float] = field(default_factory=list)
    """The weights that were solved for this tensor, one per expert; of rows the mean."""
    inputs: list[list[int]] = field(default_factory=list)
    """Content fingerprints, as eight sums of 64 bits each."""
    output: list[int] = field(default_factory=list)
    """The result's; while votes are guessed, without the stretches that have a guess."""
    factors: list[float] = field(default_factory=list)
    """The factors of L1 rescaling, one per expert."""
    concern: str | None = None
    """The reason to doubt the result, if there is one."""

    def take(self, merged: CandidateResult) -> None:
        """Note what a combine of all of the tensor found, in the place of another's findings."""
        self.conflicts = merged.conflicts
        self.cancellations = merged.cancellations
        self.sign_sum = merged.sign_sum
        self.plus, self.minus = Guessed(*merged.plus), Guessed(*merged.minus)
        self.output = list(merged.output)
        self.overflow = merged.overflow

    def forget(self) -> None:
        """Take back what a combine found, before all of the tensor is combined again."""
        self.conflicts = self.cancellations = self.sign_sum = 0
        self.plus, self.minus = Guessed(), Guessed()
        self.output = [0] * 8
        self.overflow = False

    def add(self, merged: CandidateResult) -> None:
        """Note what a combine of a stretch found beside what the others found."""
        self.conflicts += merged.conflicts
        self.cancellations += merged.cancellations
        self.sign_sum += merged.sign_sum
        self.plus = self.plus.joined(*merged.plus)
        self.minus = self.minus.joined(*merged.minus)
        add_content(self.output, merged.output)
        self.overflow |= merged.overflow


@dataclass
class Statistics:
    """The findings of a survey over one tensor, or over all together; empty where there are none.

    Plain data but for ``stages``, which no statistics of a whole model have.
    """

    trims: list[Trim] = field(default_factory=list)
    """One per expert."""
    weights: list[float] = field(default_factory=list)
    """One per expert, or as many for each row."""
    scores: list[Score] = field(default_factory=list)
    """One per expert."""
    stages: list[Stage] = field(default_factory=list)
    """One per expert."""
    factors: list[float] = field(default_factory=list)
    """The factors of L1 rescaling, one per expert."""
    coefficients: list[float] = field(default_factory=list)
    """The weights of a tensor that were solved for, one per expert; of rows the mean."""
    concern: str | None = None
    """The reason to doubt a result with these weights, if there is one."""

    def __bool__(self) -> bool:
        return bool(self.trims or self.weights or self.scores)


@dataclass(frozen=True)
class Score:
    """The numbers from which the scores of one expert are formed, over a whole model."""

    low: float
    """The smallest magnitude; smaller ones are clipped to it."""
    high: float
    """The largest magnitude; larger ones are clipped to it."""
    per_width: float
    """One over the width between the two."""
    threshold: float = float("inf")
    """The score above which scores count."""
    per_range: float = 1.0
    """One over the range from the threshold to the largest score."""
