"""Takes the survey of a merge: of all tensors together, or batch by batch before their combine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .._core import CancelledVotes, Settled
from .guesses import Guess, Reads
from .jobs import Merge
from .lowering import Tasks
from .outcomes import Statistics
from .surveys.survey import Context, GuessingSurvey, survey_of

# Thresholds searched at a time, which share the room for magnitudes listed around them. Those of
# small tensors are selected in memory, and count by their share of it.
_SEARCHES_TOGETHER = 96
# The same of guesses, which list elements with all their inputs; and the memory for lists that each
# of these takes: float32 tensors of 2^24 elements that are merged in less are read again.
_GUESSES_TOGETHER = 24
_GUESS_BYTES = 1 << 21
_SMALL = 1 << 16
# Bytes of input in a batch: small enough to stay in the page cache beside everything else.
_BATCH_BYTES = 1 << 30
# The same where a batch is held in memory: small enough to stay in the processor's last cache.
_HELD_BATCH_BYTES = 1 << 24
# Bytes of a tensor that is held in the place of a guess. Guesses of a larger one read a fortieth
# more than once, and the processor takes longer to bring it back from memory than to prove them.
_MOST_HELD_BYTES = 1 << 26


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
        self.bytes_held = 0
        """The bytes that passes found in memory, where a pass before them had left them."""

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

    def held_batches(
        self, jobs: Sequence[int], left: list[int]
    ) -> Iterator[tuple[list[int], list[Statistics]]]:
        """Yield batches of tensors that lie in memory until the next one, and their statistics.

        Args:
            jobs: The tensors.
            left: Gets the tensors that have no room or need none, or of which some input cannot be
                held.
        """
        survey = self._survey
        assert survey is not None, "the rule names a survey"
        merge = self._context.merge
        sizes = {job: merge.works[job].n_input_bytes for job in jobs}
        most = min(self._room, _MOST_HELD_BYTES)
        fitting: list[int] = []
        for job in jobs:
            # A tensor without a search for a threshold is read but once.
            spared = survey.spares(merge.works[job].parameters)
            (left if spared or sizes[job] > most else fitting).append(job)
        # Their bytes count when they are combined.
        context = replace(self._context, merge=replace(merge, progress=None))
        for batch in self._batches(fitting, survey.n_searches, most_bytes=_HELD_BATCH_BYTES):
            held = dict(zip(batch, self._hold(batch), strict=True))
            left += [job for job in batch if held[job] < sizes[job]]
            if whole := [job for job in batch if held[job] == sizes[job]]:
                yield whole, survey.take(context, [[job] for job in whole])
        self.hold([])

    def guessed_batches(self, jobs: Sequence[int]) -> Iterator[tuple[list[int], Guess]]:
        """Yield batches of these tensors, and the guessed thresholds of each tensor."""
        assert self._survey is not None, "the rule names a survey"
        room = self._context.merge.limits.list_bytes // _GUESS_BYTES
        together = min(max(room, 1), _GUESSES_TOGETHER)
        for batch in self._batches(jobs, self._survey.n_searches, together):
            yield batch, self._guess([[job] for job in batch])

    def settle(self, guess: Guess, cancelled: CancelledVotes | None = None) -> Settled:
        """Return the exact thresholds, and what became of results with wrong guesses.

        Args:
            guess: The guesses.
            cancelled: The lists of cancelled votes of what was combined with them.
        """
        merge, reads = self._context.merge, self.reads

        def progress(n_bytes: int) -> None:
            reads.settled += n_bytes
            if merge.progress is not None:
                merge.progress(n_bytes)

        settled = merge.plan.settle(
            guesses=guess.native, limits=merge.limits, progress=progress, cancelled=cancelled
        )
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

    def batches(
        self, jobs: Sequence[int], *, holds: bool = True
    ) -> Iterator[tuple[list[int], list[Statistics]]]:
        """Yield batches of these tensors, and the statistics of each tensor.

        The statistics are empty, and there is one batch, where tensors have none of their own.

        Args:
            jobs: The tensors.
            holds: Hold what the survey reads of a batch in memory until the next one.
        """
        if self._survey is None or self._survey.of_model:
            yield list(jobs), [Statistics() for _ in jobs]
            return
        most_bytes = min(self._room, _HELD_BATCH_BYTES) if holds else 0
        for batch in self._batches(jobs, self._survey.n_searches, most_bytes=most_bytes):
            if holds:
                self.hold(batch)
            yield batch, self._survey.take(self._context, [[job] for job in batch])
        if holds:
            self.hold([])

    @property
    def _room(self) -> int:
        """The memory for what is held; 0 where reads are no loss, or a device would not see it."""
        merge = self._context.merge
        needs_none = merge.in_memory or merge.limits.device_bytes > 0
        return 0 if needs_none else merge.limits.list_bytes

    def hold(self, jobs: Sequence[int]) -> None:
        """Keep what these tensors read, as far as it fits the budget, for the passes to come."""
        merge = self._context.merge
        if not self._room or self._survey is None:
            return
        survey = self._survey
        passes = {job: survey.n_passes - survey.spares(merge.works[job].parameters) for job in jobs}
        surveyed = [job for job in jobs if passes[job] > 0]
        for job, n_bytes in zip(surveyed, self._hold(surveyed), strict=True):
            self.bytes_held += n_bytes * passes[job]

    def _hold(self, jobs: Sequence[int]) -> list[int]:
        """Give room to these tensors; return the bytes that are held of each."""
        assert self._survey is not None, "the rule names a survey"
        merge = self._context.merge
        held = merge.plan.hold(jobs=jobs, n_bytes=self._room)
        # A search begins with a sample, which is not to be read apart. Other surveys read all that
        # they need at once, while a tile is in the cache.
        if self._survey.n_searches > 0 and not self._survey.of_model:
            merge.plan.fill(limits=merge.limits)
        return held

    def _batches(
        self,
        jobs: Sequence[int],
        n_searches: int,
        together: int = _SEARCHES_TOGETHER,
        most_bytes: int = 0,
    ) -> Iterator[list[int]]:
        merge, most_bytes = self._context.merge, most_bytes or _BATCH_BYTES
        batch: list[int] = []
        n_bytes, searches = 0, 0.0
        for job in jobs:
            work = merge.works[job]
            more = len(merge.labels) * min(1.0, (work.n_elements + 1) / _SMALL) * n_searches
            if batch and (searches + more > together or n_bytes + work.n_input_bytes > most_bytes):
                yield batch
                batch, n_bytes, searches = [], 0, 0.0
            batch.append(job)
            n_bytes += work.n_input_bytes
            searches += more
        if batch:
            yield batch
