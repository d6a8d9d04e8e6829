"""The passes of a merge, over tensors on disk and in memory alike.

A merge is at most two kinds of pass: a survey, which finds exact thresholds or sums, and the
combine, which writes. Where each tensor has its own the two alternate over batches of tensors, so
that the second read of a batch comes from the page cache. An exactly zero vote takes
the majority of the elected signs, which is known only at the end: the combine assumes the majority
so far, and the stretches for which that was wrong are combined once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from .._core import JobResult, JobRule, Limits, Plan
from ..spec.choices import Semantics
from ..spec.rules import Gate, Rule, Vote, Zero
from .codes import KEEP_ALL, ZERO_SIGNS, combine_stage, rule_codes
from .files import native
from .fingerprints import add_content
from .jobs import Merge, Work
from .lowering import JobRules
from .outcomes import Found, Guessed, ModelSurvey, Outcome, Survey
from .stages import row_elements
from .surveyor import Surveyor


class Passes:
    """Runs the passes over ``works``, whose order is that in which equal magnitudes are preferred.

    ``report_overflow`` is called with a tensor that got a value which is not finite in its dtype,
    as soon as that is known; it may raise.
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
        self._rules = JobRules(merge)
        self._surveyor = Surveyor(merge, self._rules)
        for work in works:
            plan.add_job(work.n_elements, [*map(native, work.inputs)], work.outputs)

    @property
    def by_model(self) -> bool:
        """Whether one survey over all tensors comes before the combine."""
        return self.rule.survey == "model"

    @property
    def model(self) -> ModelSurvey:
        """What that survey found; may be set to what an earlier run found."""
        return self._rules.model

    @model.setter
    def model(self, found: ModelSurvey) -> None:
        self._rules.model = found

    @property
    def settles_last(self) -> bool:
        """Whether the signs' majority is that of the whole model, known when all is merged."""
        return self.rule.scope == "model"

    def survey_model(self) -> None:
        """Find what holds over all tensors together: thresholds, weights or scores."""
        self.model = self._surveyor.survey_model(list(range(len(self._works))))

    def scale(self, factors: Mapping[str, float]) -> None:
        """Multiply the merged task vectors, by tensor, beside the method's own scale."""
        self._rules.scales = [work.scale * factors[work.name] for work in self._works]

    def combine(self, jobs: Sequence[int]) -> None:
        """Merge these tensors and write them, with the survey of each batch if one is needed."""
        for batch, surveys in self._surveyor.batches(jobs):
            self._combine(batch, surveys)
            if not self.settles_last:
                self._settle([job] for job in batch)

    def surveys(self) -> Iterator[tuple[int, Survey]]:
        """Every tensor and what its combine needs to know of it."""
        for batch, surveys in self._surveyor.batches(range(len(self._works))):
            yield from zip(batch, surveys, strict=True)

    def merge_stretch(
        self, plan: Plan, job: int, survey: Survey, zero_sign: int, first: int, n: int
    ) -> JobResult:
        """Merge ``n`` elements of a tensor at scale 1 in a plan that has this tensor alone."""
        rule = self._rules.make(job, zero_sign, -1, survey, first, n, alone=True)
        (result,) = self._run([rule], plan, keeps_all=_keep_all([survey.found]))
        return result

    def grain(self, job: int) -> int:
        """Elements that ``first`` in ``merge_stretch`` is a multiple of."""
        work = self._works[job]
        return row_elements(work.row_length, work.n_elements)[0] if self.rule.by_rows else 64

    def settle_majority(self) -> None:
        """Combine again where cancelled votes took another sign than the whole model's majority."""
        if self.settles_last:
            self._settle([range(len(self._works))])

    def majority(self, jobs: Iterable[int]) -> int:
        """The sign of the elected signs' sum over these tensors; negative when it is zero."""
        return 1 if sum(self.outcomes[job].sign_sum for job in jobs) > 0 else -1

    def _settle(self, groups: Iterable[Sequence[int]]) -> None:
        """Make results whole: repeat the stretches whose group's majority was guessed wrong."""
        rules, owners = [], []
        for group in groups:
            sign = self.majority(group)
            for job in group:
                outcome = self.outcomes[job]
                right, wrong = outcome.plus, outcome.minus
                outcome.plus = outcome.minus = Guessed()
                if sign < 0:
                    right, wrong = wrong, right
                add_content(outcome.output, right.output)
                if self.rule.zero is not Zero.MAJORITY:
                    add_content(outcome.output, wrong.output)
                    continue
                stages = self._rules.stages(job, factors=outcome.factors)
                survey = Survey(outcome.found, outcome.weights, stages)
                for first, n_elements in wrong.ranges:
                    rules.append(self._rules.make(job, sign, -1, survey, first, n_elements))
                    owners.append(job)
                    outcome.n_repeated += n_elements
        for job, result in zip(owners, self._run(rules) if rules else [], strict=True):
            outcome = self.outcomes[job]
            for part in (result.output, result.plus[1], result.minus[1]):
                add_content(outcome.output, part)
            self._note_overflow(job, outcome, outcome.overflow or result.overflow)

    def _combine(self, jobs: Sequence[int], surveys: Sequence[Survey]) -> None:
        by_tensor = self.rule.scope == "tensor"
        wants_majority = self.rule.zero is Zero.MAJORITY and self.rule.vote is not Vote.NONE
        rules = [
            self._rules.make(
                job,
                ZERO_SIGNS[self.rule.zero],
                (i if by_tensor else 0) if wants_majority else -1,
                survey,
            )
            for i, (job, survey) in enumerate(zip(jobs, surveys, strict=True))
        ]
        results = self._run(rules, keeps_all=_keep_all([survey.found for survey in surveys]))
        for job, survey, result in zip(jobs, surveys, results, strict=True):
            outcome = self.outcomes[job] = Outcome(
                found=survey.found,
                weights=[] if self.rule.coefficients else survey.weights,
                coefficients=survey.coefficients,
                factors=survey.factors,
                conflicts=result.conflicts,
                cancellations=result.cancellations,
                sign_sum=result.sign_sum,
                plus=Guessed(*result.plus),
                minus=Guessed(*result.minus),
                inputs=result.inputs,
                output=result.output,
            )
            self._note_overflow(job, outcome, result.overflow)

    def _note_overflow(self, job: int, outcome: Outcome, overflow: bool) -> None:
        outcome.overflow = overflow
        if overflow and self._report_overflow is not None:
            self._report_overflow(job)

    def _run(
        self, rules: list[JobRule], plan: Plan | None = None, *, keeps_all: bool = False
    ) -> list[JobResult]:
        rule = self.rule
        if keeps_all and rule.gate is Gate.VARIANCE:
            rule = replace(rule, gate=Gate.ALL)
        return (plan or self._plan).combine(
            rules,
            *rule_codes(rule),
            self._fingerprints,
            self._stop_at_overflow,
            self._limits,
            self._progress,
            combine_stage(self.rule),
        )

    def kept(self) -> list[int]:
        """Entries of each expert that the magnitude gate kept, over all tensors."""
        if self.model.found:
            return [found.n_kept for found in self.model.found]
        rows = [outcome.found for outcome in self.outcomes.values()]
        return [sum(row[expert].n_kept for row in rows) for expert in range(len(self._labels))]


def _keep_all(found: Sequence[list[Found]]) -> bool:
    return all(trim.floor == KEEP_ALL for row in found for trim in row)
