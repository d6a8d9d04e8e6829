"""The passes of a merge, over tensors on disk and in memory alike.

A merge is at most two kinds of pass: a survey, which finds exact thresholds or sums, and the
combine, which writes. Where each tensor has its own the two alternate over batches of tensors, so
that the second read of a batch comes from the page cache. An exactly zero vote takes
the majority of the elected signs, which is known only at the end: the combine assumes the majority
so far, and the stretches for which that was wrong are combined once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any, NamedTuple

from . import _core
from .errors import InputError
from .floats import bits_of, float32
from .methods._spec import Blend, Gate, Rule, Vote, Zero
from .native import (
    COMPANY_CODES,
    KEEP_ALL,
    KEEP_NONE,
    MEASURE_CODES,
    STAGED,
    ZERO_SIGNS,
    rule_codes,
    stage_code,
)
from .ranks import Trim, trim
from .scores import Score, survey_scores
from .solving import Solver
from .stages import band, between, l1_factor, row_elements, stages

Place = tuple[int, int, int]
"""Where an array lies: file number and byte offset, or -1 and address; and its dtype's code."""

# Thresholds searched at a time: each may take a histogram of 512 KiB. Those of small tensors are
# selected in memory, and count by their share of it.
_SEARCHES_TOGETHER = 96
_SMALL = 1 << 16
# Bytes of input in a batch: small enough to stay in the page cache beside everything else.
_BATCH_BYTES = 1 << 30


@dataclass(frozen=True)
class Work:
    """One tensor to merge: where its values lie and what its parameters are."""

    name: str
    n_elements: int
    inputs: tuple[Place, ...]
    """The base, for methods that have one, then the experts."""
    outputs: tuple[Place, ...]
    weights: tuple[float, ...]
    densities: tuple[float, ...]
    """Empty for rules whose gate lets all entries pass."""
    scale: float
    n_input_bytes: int
    lambdas: tuple[float, ...] = ()
    """Of the masks by which the experts claim elements; empty for rules without a consensus."""
    shape: tuple[int, ...] = ()
    row_length: int = 1
    """Elements of the last dimension; of all, where there is but one dimension."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The method's parameters for this tensor, from which coefficients are solved."""
    gammas: tuple[float, ...] = ()
    """Shares that are too large, for the band."""
    epsilons: tuple[float, ...] = ()
    """How far chances differ from the density, for chances by rank."""
    select: float = 1.0
    """The share of the elements on which the experts differ that stays under the spread gate."""


def settings(values: Mapping[str, Any], n_experts: int) -> dict[str, Any]:
    """What a Work takes of a tensor's resolved parameters; 1 for what the method does not have."""
    epsilons = values.get("epsilon", ())
    return {
        "weights": values.get("weight", (1.0,) * n_experts),
        "densities": values.get("density", ()),
        "scale": values.get("scale", 1.0),
        "lambdas": values.get("mask_lambda", ()),
        "gammas": values.get("gamma", ()),
        "epsilons": epsilons if isinstance(epsilons, tuple) else (),
        "select": values.get("select_topk", 1.0),
        "parameters": values,
    }


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
    stages: list[_core.StageRule] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)


class Passes:
    """Runs the passes over ``works``, whose order is that in which equal magnitudes are preferred.

    ``report_overflow`` is called with a tensor that got a value which is not finite in its dtype,
    as soon as that is known; it may raise.
    """

    def __init__(
        self,
        plan: _core.Plan,
        works: Sequence[Work],
        rule: Rule,
        semantics: str,
        limits: _core.Limits,
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
        self._seed = seed
        self._fingerprints = fingerprints
        self._stop_at_overflow = stop_at_overflow
        self._report_overflow = report_overflow
        self._progress = progress
        self.survey: list[Found] = []
        """The trims that hold over all tensors together, one per expert."""
        self.weights: list[float] = []
        """The weights that a survey of all tensors found."""
        self.scores: list[Score] = []
        """What entries are scored by, over all tensors, one per expert."""
        self.outcomes: dict[int, Outcome] = {}
        self._solver = (
            Solver(rule.coefficients, plan, works, len(labels), has_base, limits, progress)
            if rule.coefficients
            else None
        )
        for work in works:
            plan.add_job(work.n_elements, work.inputs, work.outputs)

    @property
    def by_model(self) -> bool:
        """Whether one survey over all tensors comes before the combine."""
        return self.rule.survey == "model"

    @property
    def is_surveyed(self) -> bool:
        """Whether what that survey finds is known."""
        return bool(self.survey or self.weights or self.scores)

    @property
    def settles_last(self) -> bool:
        """Whether the signs' majority is that of the whole model, known when all is merged."""
        return self.rule.scope == "model"

    def survey_model(self) -> None:
        """Find what holds over all tensors together: thresholds, weights or scores."""
        jobs = list(range(len(self._works)))
        if self._solver is not None:
            self.weights = self._solver.solve_model(jobs)
        elif self.rule.gate is Gate.SCORE:
            self.scores = self._score(jobs)
        elif self.rule.weights_of_census is not None:
            (self.weights,) = self._take_census([jobs])
        else:
            (self.survey,) = self._select([jobs])

    def scale(self, factors: Mapping[str, float]) -> None:
        """Multiply the merged task vectors, by tensor, beside the method's own scale."""
        self._works = [replace(work, scale=work.scale * factors[work.name]) for work in self._works]

    def combine(self, jobs: Sequence[int]) -> None:
        """Merge these tensors and write them, with the survey of each batch if one is needed."""
        for batch, surveys in self._surveyed(jobs):
            self._combine(batch, surveys)
            if not self.settles_last:
                self._settle([job] for job in batch)

    def surveys(self) -> Iterator[tuple[int, Survey]]:
        """Every tensor and what its combine needs to know of it."""
        for batch, surveys in self._surveyed(range(len(self._works))):
            yield from zip(batch, surveys, strict=True)

    def merge_stretch(
        self, plan: _core.Plan, job: int, survey: Survey, zero_sign: int, first: int, n: int
    ) -> _core.JobResult:
        """Merge ``n`` elements of a tensor at scale 1 in a plan that has this tensor alone."""
        rule = self._job_rule(job, zero_sign, -1, survey, first, n, alone=True)
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
                survey = Survey(
                    outcome.found,
                    outcome.weights or self.weights,
                    self._stages(job, factors=outcome.factors),
                )
                for first, n_elements in wrong.ranges:
                    rules.append(self._job_rule(job, sign, -1, survey, first, n_elements))
                    owners.append(job)
                    outcome.n_repeated += n_elements
        for job, result in zip(owners, self._run(rules) if rules else [], strict=True):
            outcome = self.outcomes[job]
            for part in (result.output, result.plus[1], result.minus[1]):
                add_content(outcome.output, part)
            self._note_overflow(job, outcome, outcome.overflow or result.overflow)

    def _surveyed(self, jobs: Sequence[int]) -> Iterator[tuple[list[int], list[Survey]]]:
        """Batches of these tensors, each with its survey if one is needed."""
        by_tensor = self.rule.survey == "tensor"
        for batch in self._batches(jobs) if by_tensor else [list(jobs)]:
            yield batch, self._survey(batch)

    def _survey(self, jobs: Sequence[int]) -> list[Survey]:
        """What the combine of these tensors needs to know of each."""
        groups = [[job] for job in jobs]
        if self.rule.gate in STAGED:
            return self._survey_stages(jobs)
        if self.rule.survey != "tensor":
            return [Survey(weights=self.weights) for _ in jobs]
        if self._solver is not None:
            self._solver.solve_tensors(jobs)
            rows = self._solver.rows
            return [Survey(weights=[w for row in rows[job] for w in row]) for job in jobs]
        if self.rule.gate is Gate.MAGNITUDE:
            return [Survey(found) for found in self._select(groups)]
        if self.rule.gate is Gate.SPREAD:
            surveys = [Survey(found) for found in self._select_spread(jobs)]
            for survey, weights in zip(surveys, self._sum_squares(jobs, surveys), strict=True):
                survey.weights = weights
            return surveys
        return [Survey(weights=weights) for weights in self._take_census(groups)]

    def _survey_stages(self, jobs: Sequence[int]) -> list[Survey]:
        tensor_wise = self.rule.gate is Gate.BAND and not self.rule.by_rows
        bands = self._bands(jobs) if tensor_wise else [()] * len(jobs)
        surveys = [
            Survey(stages=self._stages(job, found)) for job, found in zip(jobs, bands, strict=True)
        ]
        if self.rule.rescale != "l1":
            return surveys
        rules = [self._job_rule(job, 0, -1, one) for job, one in zip(jobs, surveys, strict=True)]
        sums = self._plan.stage_sums(rules, stage_code(self.rule), self._limits, self._progress)
        for job, found, one, pair in zip(jobs, bands, surveys, sums, strict=True):
            one.factors = [l1_factor(*both) for both in zip(*pair, strict=True)]
            one.stages = self._stages(job, found, one.factors)
        return surveys

    def _stages(
        self,
        job: int,
        bands: Sequence[Mapping[str, int]] = (),
        factors: Sequence[float] = (),
    ) -> list[_core.StageRule]:
        if self.rule.gate not in STAGED:
            return []
        return stages(self.rule, self._works[job], self._semantics, self._seed, bands, factors)

    def _bands(self, jobs: Sequence[int]) -> list[list[Mapping[str, int]]]:
        """The bands of each tensor, one per expert."""
        works = [self._works[job] for job in jobs]
        wanted = [
            [
                band(work.n_elements, density, gamma, self._semantics)
                for density, gamma in zip(work.densities, work.gammas, strict=True)
            ]
            for work in works
        ]

        def thresholds(ranks: Sequence[list[int]]) -> list[list[_core.Threshold]]:
            units = [_core.Unit([job], row) for job, row in zip(jobs, ranks, strict=True)]
            return self._plan.select(units, True, self._limits, self._progress)

        outliers = thresholds([[one.n_outliers for one in row] for row in wanted])
        lasts = thresholds(
            [
                [sum(one) if one.n_kept and sum(one) < work.n_elements else 0 for one in row]
                for work, row in zip(works, wanted, strict=True)
            ]
        )
        return [
            [between(work.n_elements, *one) for one in zip(*rows, strict=True)]
            for work, *rows in zip(works, wanted, outliers, lasts, strict=True)
        ]

    def _combine(self, jobs: Sequence[int], surveys: Sequence[Survey]) -> None:
        by_tensor = self.rule.scope == "tensor"
        wants_majority = self.rule.zero is Zero.MAJORITY and self.rule.vote is not Vote.NONE
        rules = [
            self._job_rule(
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
                weights=[] if self.by_model or self._solver else survey.weights,
                coefficients=self._solver.mean(job) if self._solver else [],
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
        self, rules: list[_core.JobRule], plan: _core.Plan | None = None, *, keeps_all: bool = False
    ) -> list[_core.JobResult]:
        rule = self.rule
        if keeps_all and rule.gate is Gate.SPREAD:
            rule = replace(rule, gate=Gate.ALL)
        return (plan or self._plan).combine(
            rules,
            *rule_codes(rule),
            self._fingerprints,
            self._stop_at_overflow,
            self._limits,
            self._progress,
            stage_code(self.rule),
        )

    def _job_rule(
        self,
        job: int,
        zero_sign: int,
        majority: int,
        survey: Survey,
        first: int = 0,
        n_elements: int | None = None,
        *,
        alone: bool = False,
    ) -> _core.JobRule:
        """With ``alone``, at scale 1 and for a plan that has no other job."""
        work = self._works[job]
        floor = bits_of(self.rule.epsilon) if self.rule.gate is Gate.ABOVE else KEEP_ALL
        trims = survey.found or self.survey or [Found(work.n_elements, floor)] * len(work.weights)
        scoring = self.rule.scoring
        weights = survey.weights or self._weights(work)
        by_rows = self.rule.by_rows or len(weights) > len(work.weights)
        return _core.JobRule(
            0 if alone else job,
            first,
            work.n_elements if n_elements is None else n_elements,
            weights,
            [trim.floor for trim in trims],
            [_cutoff(trim, 0 if survey.found else job, work.n_elements) for trim in trims],
            1.0 if alone else work.scale,
            self._divisor(work) if self.rule.blend is Blend.MEAN else 1.0,
            zero_sign,
            majority,
            work.lambdas,
            self.rule.at_least,
            survey.stages,
            max(work.row_length, 1) if by_rows else 0,
            scores=[astuple(score) for score in self.scores],
            company=COMPANY_CODES[scoring.company] if scoring else 0,
        )

    def _weights(self, work: Work) -> Sequence[float]:
        return work.weights

    def _divisor(self, work: Work) -> float:
        return float32_sum(work.weights)

    def _batches(self, jobs: Sequence[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        n_bytes, searches = 0, 0.0
        for job in jobs:
            work = self._works[job]
            more = len(self._labels) * min(1.0, (work.n_elements + 1) / _SMALL)
            more *= self.rule.gate in (Gate.MAGNITUDE, Gate.SPREAD, Gate.BAND)
            if batch and (
                searches + more > _SEARCHES_TOGETHER or n_bytes + work.n_input_bytes > _BATCH_BYTES
            ):
                yield batch
                batch, n_bytes, searches = [], 0, 0.0
            batch.append(job)
            n_bytes += work.n_input_bytes
            searches += more
        if batch:
            yield batch

    def _select(self, groups: Sequence[list[int]]) -> list[list[Found]]:
        """The trims of each group of tensors that are ranked together."""
        trims = [self._trims(group) for group in groups]
        units = [
            _core.Unit(group, [trim.rank for trim in row])
            for group, row in zip(groups, trims, strict=True)
        ]
        thresholds = self._plan.select(
            units, self.rule.equal == "first", self._limits, self._progress
        )
        return [
            [self._found(group, *pair) for pair in zip(row, found, strict=True)]
            for group, row, found in zip(groups, trims, thresholds, strict=True)
        ]

    def _select_spread(self, jobs: Sequence[int]) -> list[list[Found]]:
        """Which elements of each tensor stay, the same for all experts."""
        limited = [job for job in jobs if 0 < self._works[job].select < 1]
        units = [_core.Unit([job], [1], self._works[job].select) for job in limited]
        thresholds = self._plan.select(
            units, True, self._limits, self._progress, MEASURE_CODES["spread"]
        )
        rows = {job: row[0] for job, row in zip(limited, thresholds, strict=True)}
        found = []
        for job in jobs:
            if job in rows and rows[job].rank > 0:
                trim = Trim(rows[job].rank)
                one = self._found([job], trim, rows[job])
            elif job not in rows and self._works[job].select >= 1:
                one = Found(self._works[job].n_elements, KEEP_ALL)
            else:
                one = Found(0, KEEP_NONE)
            found.append([one] * len(self._labels))
        return found

    def _sum_squares(self, jobs: Sequence[int], surveys: Sequence[Survey]) -> list[list[float]]:
        """The weights of each tensor from the mean squares of the elements that stay."""
        solve = self.rule.weights_of_squares
        if solve is None:
            return [[] for _ in jobs]
        rules = [self._job_rule(job, 0, -1, one) for job, one in zip(jobs, surveys, strict=True)]
        sums = self._plan.sum_squares(rules, self._limits, self._progress)
        return [
            solve([one / max(self._works[job].n_elements, 1) for one in row])
            for job, row in zip(jobs, sums, strict=True)
        ]

    def _take_census(self, groups: Sequence[Sequence[int]]) -> list[list[float]]:
        """The weights of each group of tensors from what its experts have alone and share."""
        solve = self.rule.weights_of_census
        if solve is None:
            return []
        jobs = [job for group in groups for job in group]
        floor = bits_of(self.rule.epsilon)
        census = dict(
            zip(
                jobs, self._plan.take_census(jobs, floor, self._limits, self._progress), strict=True
            )
        )
        return [
            solve(
                *(
                    [sum(row) for row in zip(*rows, strict=True)]
                    for rows in (
                        [census[job].alone for job in group],
                        [census[job].shared for job in group],
                    )
                )
            )
            for group in groups
        ]

    def _score(self, jobs: list[int]) -> list[Score]:
        scoring = self.rule.scoring
        if scoring is None:
            return []

        def select(
            ranks: Sequence[int], measure: str, scores: Sequence[Score]
        ) -> list[_core.Threshold]:
            (found,) = self._plan.select(
                [_core.Unit(jobs, ranks)],
                False,
                self._limits,
                self._progress,
                MEASURE_CODES[measure],
                [astuple(score) for score in scores],
                COMPANY_CODES[scoring.company],
            )
            return found

        n_elements = sum(self._works[job].n_elements for job in jobs)
        return survey_scores(n_elements, len(self._labels), scoring, select)

    def _found(self, group: Sequence[int], trim: Trim, threshold: _core.Threshold) -> Found:
        if trim.rank == 0:
            n = sum(self._works[job].n_elements for job in group) if trim.keep_all else 0
            return Found(n, KEEP_ALL if trim.keep_all else KEEP_NONE)
        floor = threshold.bits - 1
        if self.rule.equal == "keep":
            return Found(threshold.n_above + threshold.n_equal, floor, threshold.bits)
        if threshold.last_job == len(group):
            return Found(trim.rank, floor, threshold.bits)
        return Found(trim.rank, floor, threshold.bits, threshold.last_job, threshold.last_count)

    def _trims(self, group: Sequence[int]) -> list[Trim]:
        n_elements = sum(self._works[job].n_elements for job in group)
        rows = [self._works[job].densities for job in group]
        return [
            trim(n_elements, density, self.rule, self._semantics)
            for density in model_densities(rows, self._labels)
        ]

    def kept(self) -> list[int]:
        """Entries of each expert that the magnitude gate kept, over all tensors."""
        if self.survey:
            return [found.n_kept for found in self.survey]
        rows = [outcome.found for outcome in self.outcomes.values()]
        return [sum(row[expert].n_kept for row in rows) for expert in range(len(self._labels))]


def _keep_all(found: Sequence[list[Found]]) -> bool:
    return all(trim.floor == KEEP_ALL for row in found for trim in row)


def _cutoff(found: Found, position: int, n_elements: int) -> int:
    """The element of a tensor from which on entries equal to the threshold are trimmed."""
    if found.last_job is None or position < found.last_job:
        return n_elements
    return found.last_count if position == found.last_job else 0


def add_content(lanes: list[int], part: Sequence[int]) -> None:
    """Add content fingerprints in place: those of two stretches make that of both."""
    lanes[:] = [(a + b) % (1 << 64) for a, b in zip(lanes, part, strict=True)]


def model_densities(rows: Sequence[Sequence[float]], labels: Sequence[str]) -> list[float]:
    """The one density that each expert has over tensors that are ranked together.

    ``rows`` has the experts' densities of each tensor; InputError when one of them varies.
    """
    densities = []
    for expert, label in enumerate(labels):
        values = {row[expert] for row in rows}
        if len(values) > 1:
            raise InputError(
                f"{label}: density varies over the tensors (from {min(values):g} to "
                f"{max(values):g}), but with 'scope: model' one threshold holds for all of them; "
                "give one density, or set 'scope: tensor'"
            )
        densities.append(values.pop() if values else 1.0)
    return densities


def float32_sum(values: Sequence[float]) -> float:
    """The sum in float32, in order, each value rounded first, as the kernels would add them."""

    total = 0.0
    for value in values:
        total = float32(total + float32(value))
    return total
