"""The passes of a merge, over tensors on disk and in memory alike.

A merge is at most two kinds of pass: a survey, which finds statistics, and the combine, which
writes. If each tensor has statistics of its own, the two alternate over batches of tensors. The
inputs that the survey read are held in memory for the combine as far as the budget has room for
them; the rest is read again. Thresholds of magnitudes, of the model and of tensors that are not
held, need no survey: the combine runs with guesses of them and proves these (``guesses``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .._core import CandidateResult, Plan
from ..spec.choices import Scope
from .combining import Combining, keep_all
from .guesses import Guess, Reads
from .outcomes import Statistics
from .stages import row_elements
from .surveyor import Surveyor


class Passes(Combining):
    """Runs the passes of a merge. Arguments are those of ``Combining``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._surveyor = Surveyor(self._request, self._tasks)
        self._guess: Guess | None = None

    @property
    def by_model(self) -> bool:
        """True where one survey over all tensors comes before the combine."""
        return self._surveyor.of_model

    @property
    def model(self) -> Statistics:
        """The statistics of all tensors together, of this run or an earlier one."""
        return self._tasks.model

    @model.setter
    def model(self, found: Statistics) -> None:
        self._tasks.model = found

    @property
    def settles_last(self) -> bool:
        """True where the majority of signs is the whole model's, known when all is merged."""
        return self.rule.scope is Scope.MODEL

    def survey_model(self) -> None:
        """Find the statistics that hold for all tensors together."""
        jobs = list(range(len(self._works)))
        self._surveyor.hold(jobs)
        self.model = self._surveyor.survey_model(jobs)

    @property
    def guesses(self) -> bool:
        """True where thresholds can be guessed from a sample, and the combine proves them."""
        return self._surveyor.guesses

    @property
    def reads(self) -> Reads:
        """The reads beside those of whole passes, because of guesses, and what was mended."""
        return self._surveyor.reads + self._mended

    @property
    def bytes_held(self) -> int:
        """The bytes that passes found in memory, where a survey had left them."""
        return self._surveyor.bytes_held

    @property
    def is_guessing(self) -> bool:
        """True while statistics of the model are guesses."""
        return self._guess is not None

    @property
    def guessed(self) -> bytes | None:
        """The guesses in force and what proves them so far, for another run; None for none."""
        return None if self._guess is None else self._guess.native.to_bytes()

    def guess_model(self, data: bytes | None = None) -> None:
        """Guess the statistics that hold for all tensors together, until ``settle_guess``.

        A small model is known by its sample, and has its statistics at once.

        Args:
            data: The guesses of an earlier run, whose ``outcomes`` are there.
        """
        jobs = range(len(self._works))
        guess = self._surveyor.guess_model(jobs, data, [*self.outcomes])
        (self.model,) = guess.statistics
        self._guess = None if guess.is_sure else guess

    def find_model(self) -> None:
        """Guess the statistics of the model if that can be, or else find them."""
        if self.guesses:
            self.guess_model()
        else:
            self.survey_model()

    def settle_guess(self) -> list[int]:
        """Make the statistics of the model exact, and right what was combined with wrong guesses.

        Returns:
            The tensors whose outcomes have changed.
        """
        if (guess := self._guess) is None:
            return []
        self._guess = None
        return self._settle_guess(guess)

    def scale(self, factors: Mapping[str, float]) -> None:
        """Multiply the merged task vectors, by tensor, beside the method's own scale."""
        self._tasks.scales = [work.scale * factors[work.name] for work in self._works]

    def combine(self, jobs: Sequence[int]) -> None:
        """Merge these tensors and write them, with the survey of each batch if one is needed."""
        left: list[int] = []
        if self.guesses and not self.by_model:
            batches = self._surveyor.held_batches(jobs, left)
        else:
            batches = self._surveyor.batches(jobs)
        for batch, found in batches:
            self._combine(batch, found, self._guess)
            if not self.settles_last:
                self._settle([job] for job in batch)
        for batch, guess in self._surveyor.guessed_batches(left) if left else ():
            self._combine_guessed(batch, guess)
            self._settle([job] for job in batch)

    def _combine_guessed(self, jobs: Sequence[int], guess: Guess) -> None:
        """Combine tensors, each with thresholds of its own, until their results are right."""
        guessed = guess.statistics
        found = [guess.of(guessed, job) for job in jobs]
        if guess.is_sure:
            self._combine(jobs, found)
        else:
            self._combine(jobs, found, guess)
            self._settle_guess(guess)

    def _settle_guess(self, guess: Guess) -> list[int]:
        """Put exact statistics in the place of guesses; return the tensors that have changed."""
        settled = self._surveyor.settle(guess, self.cancelled)
        exact = guess.exact(settled)
        if self.by_model:
            (self.model,) = exact
        else:
            for job in guess.owners:
                self.outcomes[job].trims = guess.of(exact, job).trims
        again = [(guess.owners[task], first, n) for task, _, first, n in settled.again]
        changed = {job for job, _, _ in again}
        for job, (result,) in zip(guess.owners, settled.results, strict=True):
            if result is not None:
                self.outcomes[job].take(result)
                changed.add(job)
        for job in sorted(guess.combined):
            if guess.is_wrong(settled, job):
                self.outcomes[job].forget()
                again.append((job, 0, self._works[job].n_elements))
                changed.add(job)
        self._combine_again(again)
        self._surveyor.note_repeated(again)
        for job in sorted({*guess.owners, *guess.combined}):
            self._note_overflow(job, self.outcomes[job], self.outcomes[job].overflow)
        return sorted(changed)

    def surveys(self) -> Iterator[tuple[int, Statistics]]:
        """Yield the number of every tensor, and the statistics that its combine needs."""
        for batch, found in self._surveyor.batches(range(len(self._works)), holds=False):
            yield from zip(batch, found, strict=True)

    def merge_stretch(
        self, plan: Plan, job: int, found: Statistics, zero_sign: int, first: int, n: int
    ) -> CandidateResult:
        """Merge ``n`` elements of a tensor from ``first`` on, at scale 1.

        ``plan`` has this tensor alone.
        """
        task = self._tasks.make(job, zero_sign, -1, found, first, n, alone=True)
        (result,) = self._run([task], plan, keeps_all=keep_all([found.trims]))
        return result.candidates[0]

    def grain(self, job: int) -> int:
        """Return the elements of which ``first`` in ``merge_stretch`` is a multiple."""
        work = self._works[job]
        return row_elements(work.row_length, work.n_elements)[0] if self.rule.by_rows else 64

    def settle_majority(self) -> None:
        """Combine again where cancelled votes took another sign than the whole model's majority."""
        if self.settles_last:
            self._settle([range(len(self._works))])

    def settle_as(self, jobs: Sequence[int], sign: int) -> None:
        """Combine these tensors again where cancelled votes took another sign than this one."""
        self._settle([jobs], sign)

    def kept(self, taking: Sequence[Sequence[int]] | None = None) -> list[int]:
        """Return the entries of each expert that survive the trim, over all tensors.

        Args:
            taking: The experts that take part in each tensor, by its number; None for all.
        """
        if self.model.trims:
            return [trim.n_kept for trim in self.model.trims]
        kept = [0] * len(self._labels)
        for job, outcome in self.outcomes.items():
            experts = range(len(kept)) if taking is None else taking[job]
            for expert, trim in zip(experts, outcome.trims, strict=True):
                kept[expert] += trim.n_kept
        return kept
