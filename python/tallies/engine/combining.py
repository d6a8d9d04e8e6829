"""Combines tensors: makes and runs the native tasks, and notes what they found.

An exactly zero vote takes the majority of the elected signs, which is known only at the end: the
combine assumes the majority so far, and lists the elements that the other sign changes. These are
written by position where the assumption was wrong; stretches whose list had no room are combined
once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from .._core import CancelledVotes, CombineResult, CombineTask, Guesses, Limits, Plan
from ..spec.choices import Scope, Semantics
from ..spec.rules import Gate, Rule, Vote, Zero
from .codes import KEEP_ALL, ZERO_SIGNS, rule_codes
from .files import native
from .fingerprints import add_content
from .guesses import Guess, Reads
from .jobs import Merge, Work
from .lowering import Tasks
from .outcomes import Guessed, Outcome, Statistics, Trim

_Wrong = tuple[int, list[Sequence[int]]]
"""The sign of a tensor's cancelled votes, and the ranges in which they took another."""


class Combining:
    """Combines tensors, and makes right what took another sign than the majority.

    Args:
        plan: A native plan without jobs, in which the files of the tensors are open.
        works: The tensors, in the order in which equal magnitudes are preferred.
        rule: The work on each tensor.
        semantics: The author whose variant is meant.
        limits: Threads and buffers.
        labels: The experts, as messages name them.
        has_base: True if the first input of each tensor is a base.
        seed: The seed of random gates.
        fingerprints: True if fingerprints of inputs and outputs are needed.
        stop_at_overflow: True if a pass ends at the first value that is not finite.
        report_overflow: Is called with the number of a tensor that got a value which is not finite
            in its dtype, as soon as that is known; may raise.
        progress: Is called with the bytes moved since the last call.
        adds_jobs: False where the plan has the tensors as jobs already.
        in_memory: True where no tensor lies on disk.
        lists_arrays: True where cancelled votes of results in memory are listed, too.
    """

    def __init__(
        self,
        plan: Plan,
        works: Sequence[Work],
        rule: Rule,
        semantics: Semantics,
        limits: Limits,
        *,
        labels: Sequence[str],
        has_base: bool = True,
        seed: int = 0,
        fingerprints: bool = False,
        stop_at_overflow: bool = False,
        report_overflow: Callable[[int], None] | None = None,
        progress: Callable[[int], object] | None = None,
        adds_jobs: bool = True,
        in_memory: bool = False,
        lists_arrays: bool = False,
    ) -> None:
        self._plan = plan
        self._works = works
        self.rule = rule
        self._semantics = semantics
        self._limits = limits
        self._labels = labels
        self._fingerprints = fingerprints
        self._stop_at_overflow = stop_at_overflow
        self._report_overflow = report_overflow
        self._progress = progress
        self.outcomes: dict[int, Outcome] = {}
        merge = Merge(
            *(plan, works, rule, semantics, limits, labels, has_base, seed, progress, in_memory)
        )
        self._request = merge
        self._tasks = Tasks(merge)
        self.cancelled = self._lists(lists_arrays)
        """The lists of cancelled votes; None where a vote takes no majority, or needs no list."""
        self._mended = Reads()
        for work in works if adds_jobs else ():
            plan.add_job(work.n_elements, [*map(native, work.inputs)], work.outputs)

    def _lists(self, of_arrays: bool) -> CancelledVotes | None:
        """Return room for lists of cancelled votes, where another read takes longer than these."""
        limits, works = self._limits, self._works
        listed = of_arrays or all(file >= 0 for work in works for file, _, _ in work.outputs)
        if not (self._votes and listed and works) or limits.device_bytes > 0:
            return None
        return lists_of_votes(limits)

    def majority(self, jobs: Iterable[int]) -> int:
        """Return the sign of the sum of elected signs over these tensors; the rule's if zero."""
        total = sum(self.outcomes[job].sign_sum for job in jobs)
        return (1 if total > 0 else -1) if total else self.rule.even

    def _combine(
        self, jobs: Sequence[int], statistics: Sequence[Statistics], guess: Guess | None = None
    ) -> None:
        by_tensor = self.rule.scope is Scope.TENSOR
        tasks = [
            self._tasks.make(
                job,
                ZERO_SIGNS[self.rule.zero],
                (i if by_tensor else 0) if self._votes else -1,
                found,
                **(guess.task(job) if guess else {}),
            )
            for i, (job, found) in enumerate(zip(jobs, statistics, strict=True))
        ]
        keeps_all = keep_all([found.trims for found in statistics])
        results = self._run(
            tasks,
            keeps_all=keeps_all,
            guesses=None if guess is None else guess.native,
            cancelled=self.cancelled,
        )
        for job, found, result in zip(jobs, statistics, results, strict=True):
            outcome = self.outcomes[job] = Outcome(
                trims=found.trims,
                weights=[] if found.coefficients else found.weights,
                coefficients=found.coefficients,
                factors=found.factors,
                concern=found.concern,
                inputs=result.inputs,
            )
            outcome.take(result.candidates[0])
            if guess is None:
                self._note_overflow(job, outcome, outcome.overflow)

    def _combine_again(self, stretches: Sequence[tuple[int, int, int]]) -> None:
        """Combine stretches of tensors, and add what these give to the outcomes."""
        groups = {job: number for number, job in enumerate({job: 0 for job, _, _ in stretches})}
        tasks = [
            self._tasks.make(
                job,
                ZERO_SIGNS[self.rule.zero],
                (groups[job] if self.rule.scope is Scope.TENSOR else 0) if self._votes else -1,
                Statistics(trims=self.outcomes[job].trims),
                first,
                n,
            )
            for job, first, n in stretches
        ]
        results = self._run(tasks, cancelled=self.cancelled) if tasks else []
        for (job, _, _), result in zip(stretches, results, strict=True):
            self.outcomes[job].add(result.candidates[0])

    def _settle(self, groups: Iterable[Sequence[int]], known: int | None = None) -> None:
        """Make results whole: mend the elements whose group's majority was guessed wrong."""
        wrong: dict[int, _Wrong] = {}
        for group in groups:
            sign = self.majority(group) if known is None else known
            for job in group:
                outcome = self.outcomes[job]
                assumed = {1: outcome.plus, -1: outcome.minus}
                outcome.plus = outcome.minus = Guessed()
                wrong[job] = (sign, [])
                for guess, part in assumed.items():
                    if self.rule.zero is Zero.MAJORITY and guess != sign:
                        wrong[job][1].extend(part.ranges)
                    else:
                        add_content(outcome.output, part.output)
        tasks, owners = [], []
        for job, (sign, ranges) in self._mend(wrong).items():
            if not ranges:
                continue
            outcome = self.outcomes[job]
            found = Statistics(
                trims=outcome.trims,
                weights=outcome.weights,
                stages=self._tasks.stages(job, factors=outcome.factors),
            )
            for first, n_elements in ranges:
                tasks.append(self._tasks.make(job, sign, -1, found, first, n_elements))
                owners.append(job)
                outcome.n_repeated += n_elements
        for job, result in zip(owners, self._run(tasks) if tasks else [], strict=True):
            outcome, merged = self.outcomes[job], result.candidates[0]
            for content in (merged.output, merged.plus[1], merged.minus[1]):
                add_content(outcome.output, content)
            self._note_overflow(job, outcome, outcome.overflow or merged.overflow)

    def _mend(self, wrong: Mapping[int, _Wrong]) -> Mapping[int, _Wrong]:
        """Write listed elements with the other sign; return the ranges that are left, by tensor.

        Args:
            wrong: By tensor, the sign of cancelled votes and the ranges that took another.
        """
        # The lists know one other sign, which is not that of a majority of zero.
        if self.cancelled is None or any(sign == 0 for sign, _ in wrong.values()):
            return wrong
        found = self._plan.mend(
            cancelled=self.cancelled,
            wrong=[(job, 0, ranges) for job, (_, ranges) in wrong.items()],
            limits=self._limits,
            progress=self._progress,
        )
        left: dict[int, _Wrong] = {}
        for (job, (sign, _)), mended in zip(wrong.items(), found, strict=True):
            add_content(self.outcomes[job].output, mended.output)
            self._mended += Reads(listed=mended.n_listed, repaired=mended.n_mended)
            left[job] = (sign, [*mended.left])
        return left

    @property
    def _votes(self) -> bool:
        """True where a cancelled vote takes the majority of signs."""
        return self.rule.zero is Zero.MAJORITY and self.rule.vote is not Vote.NONE

    def _run(
        self,
        tasks: list[CombineTask],
        plan: Plan | None = None,
        *,
        keeps_all: bool = False,
        guesses: Guesses | None = None,
        cancelled: CancelledVotes | None = None,
    ) -> list[CombineResult]:
        rule = self.rule
        if keeps_all and rule.gate is Gate.VARIANCE:
            rule = replace(rule, gate=Gate.ALL)
        gate, vote, blend = rule_codes(rule)
        return (plan or self._plan).combine(
            tasks=tasks,
            gate=gate,
            vote=vote,
            blend=blend,
            fingerprints=self._fingerprints,
            stop_at_overflow=self._stop_at_overflow,
            limits=self._limits,
            progress=self._progress,
            guesses=guesses,
            cancelled=cancelled,
        )

    def _note_overflow(self, job: int, outcome: Outcome, overflow: bool) -> None:
        outcome.overflow = overflow
        if overflow and self._report_overflow is not None:
            self._report_overflow(job)


def lists_of_votes(limits: Limits) -> CancelledVotes:
    """Return empty lists of cancelled votes in the memory that these limits have for lists."""
    n_bytes = limits.list_bytes or limits.buffer_bytes * limits.n_threads
    return CancelledVotes(list_bytes=n_bytes)


def keep_all(rows: Sequence[Sequence[Trim]]) -> bool:
    """Return True if no entry of any tensor is trimmed."""
    return all(trim.floor == KEEP_ALL for row in rows for trim in row)
