"""Takes the survey of a merge: of all tensors together, or batch by batch before their combine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .._core import Settled
from .guesses import Guess, Reads
from .jobs import Merge
from .lowering import Tasks
from .outcomes import Statistics
from .surveys.survey import Context, GuessingSurvey, survey_of

# Thresholds searched at a time, which share the room for magnitudes listed around them. Those of
# small tensors are selected in memory, and count by their share of it.
_SEARCHES_TOGETHER = 96
# The same of guesses, which list elements with all their inputs.
_GUESSES_TOGETHER = 24
_SMALL = 1 << 16
# Bytes of input in a batch: small enough to stay in the page cache beside everything else.
_BATCH_BYTES = 1 << 30


class Surveyor:
    """Takes the survey that the rule of a merge names.

    Args:
        merge: The merge.
        tasks: Makes its native tasks.
    """

    def __init__(self, merge: Merge, tasks: Tasks) -> None:
        self._context = Context(merge, tasks)
        self._survey = survey_of(merge.rule.survey) if merge.rule.survey else None
        self.reads = Reads()
        """The reads of guesses beside whole passes."""

    @property
    def of_model(self) -> bool:
        """True where one survey of all tensors comes before every combine."""
        return self._survey is not None and self._survey.of_model

    @property
    def guesses(self) -> bool:
        """True where thresholds can be guessed, and the combine proves them.

        A device needs them first. In memory a second read costs less than the proof: TIES of three
        experts of 2^24 elements took 0.05 s instead of 0.115 (bfloat16), 0.063 instead of 0.092.
        """
        merge = self._context.merge
        needs_first = merge.in_memory or merge.limits.device_bytes > 0
        return self._survey is not None and self._survey.can_guess and not needs_first

    def survey_model(self, jobs: Sequence[int]) -> Statistics:
        """Return the statistics that hold for all these tensors together."""
        assert self._survey is not None, "the rule names a survey"
        (found,) = self._survey.take(self._context, [jobs])
        return found

    def guess_model(
        self, jobs: Sequence[int], data: bytes | None = None, combined: Sequence[int] = ()
    ) -> Guess:
        """Return the guessed thresholds of all these tensors together.

        Args:
            jobs: The tensors.
            data: The guesses of an earlier run, with its counts.
            combined: The tensors that the earlier run combined.
        """
        return self._guess([jobs], data, combined)

    def guessed_batches(self, jobs: Sequence[int]) -> Iterator[tuple[list[int], Guess]]:
        """Yield batches of these tensors, and the guessed thresholds of each tensor."""
        assert self._survey is not None, "the rule names a survey"
        for batch in self._batches(jobs, self._survey.n_searches, _GUESSES_TOGETHER):
            yield batch, self._guess([[job] for job in batch])

    def settle(self, guess: Guess) -> Settled:
        """Return the exact thresholds, and what became of results with wrong guesses."""
        merge, reads = self._context.merge, self.reads

        def progress(n_bytes: int) -> None:
            reads.settled += n_bytes
            if merge.progress is not None:
                merge.progress(n_bytes)

        settled = merge.plan.settle(guesses=guess.native, limits=merge.limits, progress=progress)
        reads.listed += guess.native.n_listed
        reads.repaired += guess.native.n_repaired
        return settled

    def note_repeated(self, stretches: Sequence[tuple[int, int, int]]) -> None:
        """Note that stretches were combined again: tensor, first element, number of elements."""
        for job, _, n_elements in stretches:
            work = self._context.merge.works[job]
            self.reads.repeated += n_elements
            self.reads.settled += work.n_input_bytes * n_elements // max(work.n_elements, 1)

    def _guess(
        self,
        groups: Sequence[Sequence[int]],
        data: bytes | None = None,
        combined: Sequence[int] = (),
    ) -> Guess:
        assert isinstance(self._survey, GuessingSurvey), "the survey can guess"
        merge = self._context.merge
        asked = self._survey.ask(self._context, groups)
        native = merge.plan.guess(
            units=asked.units,
            locate=asked.locate,
            limits=merge.limits,
            data=data,
            progress=merge.progress,
        )
        if data is None:
            self.reads.sampled += native.n_sampled
        return Guess(asked, groups, native, combined)

    def batches(self, jobs: Sequence[int]) -> Iterator[tuple[list[int], list[Statistics]]]:
        """Yield batches of these tensors, and the statistics of each tensor.

        The statistics are empty, and there is one batch, where tensors have none of their own.
        """
        if self._survey is None or self._survey.of_model:
            yield list(jobs), [Statistics() for _ in jobs]
            return
        for batch in self._batches(jobs, self._survey.n_searches):
            yield batch, self._survey.take(self._context, [[job] for job in batch])

    def _batches(
        self, jobs: Sequence[int], n_searches: int, together: int = _SEARCHES_TOGETHER
    ) -> Iterator[list[int]]:
        merge = self._context.merge
        batch: list[int] = []
        n_bytes, searches = 0, 0.0
        for job in jobs:
            work = merge.works[job]
            more = len(merge.labels) * min(1.0, (work.n_elements + 1) / _SMALL) * n_searches
            if batch and (
                searches + more > together or n_bytes + work.n_input_bytes > _BATCH_BYTES
            ):
                yield batch
                batch, n_bytes, searches = [], 0, 0.0
            batch.append(job)
            n_bytes += work.n_input_bytes
            searches += more
        if batch:
            yield batch
