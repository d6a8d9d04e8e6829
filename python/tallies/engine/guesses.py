"""States thresholds that a combine takes from a sample and proves while it merges.

A sample of one to three hundredths of the inputs names each threshold, or nearly so. The combine
runs with these guesses and counts what proves or refutes them; where one was wrong, the elements
that it changes are combined again. The result is that of a survey before the combine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .._core import Guesses, Settled
from .outcomes import Statistics
from .surveys.survey import Asked


@dataclass
class Reads:
    """The reads beside those of whole passes, and what lists save of them.

    Guessed thresholds leave elements open, and a majority of signs that is known only at the end
    leaves open those whose votes cancelled.
    """

    sampled: int = 0
    """Bytes read for the sample."""
    settled: int = 0
    """Bytes read again, to count and to combine, because a guess was wrong."""
    listed: int = 0
    """Elements kept with their inputs, or with another result, because they were open."""
    repaired: int = 0
    """Elements that were written again from such a list."""
    repeated: int = 0
    """Elements that were read and combined again."""

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def __add__(self, other: Reads) -> Reads:
        """Return the reads of two parts of a merge."""
        own, others = asdict(self), asdict(other)
        return Reads(**{name: own[name] + others[name] for name in own})


class Guess:
    """The guessed thresholds of groups of tensors.

    Args:
        asked: The thresholds that the survey asks for.
        groups: The numbers of the tensors, group by group.
        native: The guesses.
        combined: The tensors that an earlier run combined with these guesses.
    """

    def __init__(
        self,
        asked: Asked,
        groups: Sequence[Sequence[int]],
        native: Guesses,
        combined: Sequence[int] = (),
    ) -> None:
        self._asked = asked
        self._unit = {job: unit for unit, group in enumerate(groups) for job in group}
        self.native = native
        self.combined = set(combined)
        """Tensors that are counted already, and whose tasks the guesses do not know."""
        self.owners: list[int] = []
        """The tensor of each task of the combines that had these guesses, in order."""

    @property
    def is_sure(self) -> bool:
        """True where the sample was all there is, so that the guesses are the thresholds."""
        return all(map(all, self.native.is_sure))

    @property
    def statistics(self) -> list[Statistics]:
        """The statistics of each group, as guessed."""
        return self._asked.answer(self.native.thresholds)

    def exact(self, settled: Settled) -> list[Statistics]:
        """Return the statistics of each group."""
        return self._asked.answer(settled.thresholds)

    def of(self, statistics: Sequence[Statistics], job: int) -> Statistics:
        """Return those statistics that are of a tensor's group."""
        return statistics[self._unit[job]]

    def task(self, job: int) -> dict[str, Any]:
        """Return the arguments of a native task that is combined with these guesses."""
        self.owners.append(job)
        if job in self.combined:
            return {}
        unit = self._unit[job]
        return {"unit": unit, "searches": self._asked.searches[unit]}

    def is_wrong(self, settled: Settled, job: int) -> bool:
        """Return True if a threshold of a tensor was guessed wrong."""
        unit = self._unit[job]
        right = settled.is_right[unit]
        return not all(right[one] for one in self._asked.searches[unit] if one >= 0)
