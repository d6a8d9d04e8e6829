"""The passes of a merge, over tensors on disk and in memory alike.

A merge is at most two kinds of pass: a survey, which finds statistics, and the combine, which
writes. If each tensor has statistics of its own, the two alternate over batches of tensors, so
that the second read of a batch comes from the page cache. An exactly zero vote takes the majority
of the elected signs, which is known only at the end: the combine assumes the majority so far, and
the stretches for which that was wrong are combined once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from .._core import CandidateResult, CombineResult, CombineTask, Limits, Plan
from ..spec.choices import Scope, Semantics
from ..spec.rules import Gate, Rule, Vote, Zero
from .codes import KEEP_ALL, ZERO_SIGNS, rule_codes
from .files import native
from .fingerprints import add_content
from .jobs import Merge, Work
from .lowering import Tasks
from .outcomes import Guessed, Outcome, Statistics, Trim
from .stages import row_elements
from .surveyor import Surveyor


class Passes:
    """Runs the passes of a merge.

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
        merge = Merge(plan, works, rule, semantics, limits, labels, has_base, seed, progress)
        self._tasks = Tasks(merge)
        self._surveyor = Surveyor(merge, self._tasks)
        for work in works if adds_jobs else ():
            plan.add_job(work.n_elements, [*map(native, work.inputs)], work.outputs)

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
        self.model = self._surveyor.survey_model(list(range(len(self._works))))

    def scale(self, factors: Mapping[str, float]) -> None:
        """Multiply the merged task vectors, by tensor, beside the method's own scale."""
        self._tasks.scales = [work.scale * factors[work.name] for work in self._works]

    def combine(self, jobs: Sequence[int]) -> None:
        """Merge these tensors and write them, with the survey of each batch if one is needed."""
        for batch, found in self._surveyor.batches(jobs):
            self._combine(batch, found)
            if not self.settles_last:
                self._settle([job] for job in batch)

    def surveys(self) -> Iterator[tuple[int, Statistics]]:
        """Yield the number of every tensor, and the statistics that its combine needs."""
        for batch, found in self._surveyor.batches(range(len(self._works))):
            yield from zip(batch, found, strict=True)

    def merge_stretch(
        self, plan: Plan, job: int, found: Statistics, zero_sign: int, first: int, n: int
    ) -> CandidateResult:
        """Merge ``n`` elements of a tensor from ``first`` on, at scale 1.

        ``plan`` has this tensor alone.
        """
        task = self._tasks.make(job, zero_sign, -1, found, first, n, alone=True)
        (result,) = self._run([task], plan, keeps_all=_keep_all([found.trims]))
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

    def majority(self, jobs: Iterable[int]) -> int:
        """Return the sign of the sum of elected signs over these tensors; the rule's if zero."""
        total = sum(self.outcomes[job].sign_sum for job in jobs)
        return (1 if total > 0 else -1) if total else self.rule.even

    def _settle(self, groups: Iterable[Sequence[int]], known: int | None = None) -> None:
        """Make results whole: repeat the stretches whose group's majority was guessed wrong."""
        tasks, owners = [], []
        for group in groups:
            sign = self.majority(group) if known is None else known
            for job in group:
                outcome = self.outcomes[job]
                assumed = {1: outcome.plus, -1: outcome.minus}
                outcome.plus = outcome.minus = Guessed()
                wrong: list[Sequence[int]] = []
                for guess, part in assumed.items():
                    if self.rule.zero is Zero.MAJORITY and guess != sign:
                        wrong += part.ranges
                    else:
                        add_content(outcome.output, part.output)
                if not wrong:
                    continue
                found = Statistics(
                    trims=outcome.trims,
                    weights=outcome.weights,
                    stages=self._tasks.stages(job, factors=outcome.factors),
                )
                for first, n_elements in wrong:
                    tasks.append(self._tasks.make(job, sign, -1, found, first, n_elements))
                    owners.append(job)
                    outcome.n_repeated += n_elements
        for job, result in zip(owners, self._run(tasks) if tasks else [], strict=True):
            outcome, merged = self.outcomes[job], result.candidates[0]
            for content in (merged.output, merged.plus[1], merged.minus[1]):
                add_content(outcome.output, content)
            self._note_overflow(job, outcome, outcome.overflow or merged.overflow)

    def _combine(self, jobs: Sequence[int], statistics: Sequence[Statistics]) -> None:
        by_tensor = self.rule.scope is Scope.TENSOR
        wants_majority = self.rule.zero is Zero.MAJORITY and self.rule.vote is not Vote.NONE
        tasks = [
            self._tasks.make(
                job,
                ZERO_SIGNS[self.rule.zero],
                (i if by_tensor else 0) if wants_majority else -1,
                found,
            )
            for i, (job, found) in enumerate(zip(jobs, statistics, strict=True))
        ]
        results = self._run(tasks, keeps_all=_keep_all([found.trims for found in statistics]))
        for job, found, result in zip(jobs, statistics, results, strict=True):
            merged = result.candidates[0]
            outcome = self.outcomes[job] = Outcome(
                trims=found.trims,
                weights=[] if found.coefficients else found.weights,
                coefficients=found.coefficients,
                factors=found.factors,
                concern=found.concern,
                conflicts=merged.conflicts,
                cancellations=merged.cancellations,
                sign_sum=merged.sign_sum,
                plus=Guessed(*merged.plus),
                minus=Guessed(*merged.minus),
                inputs=result.inputs,
                output=merged.output,
            )
            self._note_overflow(job, outcome, merged.overflow)

    def _note_overflow(self, job: int, outcome: Outcome, overflow: bool) -> None:
        outcome.overflow = overflow
        if overflow and self._report_overflow is not None:
            self._report_overflow(job)

    def _run(
        self, tasks: list[CombineTask], plan: Plan | None = None, *, keeps_all: bool = False
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
        )

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


def _keep_all(rows: Sequence[Sequence[Trim]]) -> bool:
    return all(trim.floor == KEEP_ALL for row in rows for trim in row)
