"""Surveys: what must be known of the tensors of a merge before they are combined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple

from .._core import JobRule, Threshold, Unit
from ..floats import bits_of
from ..spec.rules import Gate, Scoring
from .codes import COMPANY_CODES, MEASURE_CODES, STAGED, stage_code
from .jobs import Merge
from .lowering import JobRules
from .outcomes import ModelSurvey, Score, Survey
from .stages import l1_factor
from .surveys.inner_products import Solver
from .surveys.scores import survey_scores
from .surveys.trims import Selector

# Thresholds searched at a time, which share the room for magnitudes listed around them. Those of
# small tensors are selected in memory, and count by their share of it.
_SEARCHES_TOGETHER = 96
_SMALL = 1 << 16
# Bytes of input in a batch: small enough to stay in the page cache beside everything else.
_BATCH_BYTES = 1 << 30


class Surveyor:
    """Runs the surveys of a merge whose ``rules`` they need and complete."""

    def __init__(self, merge: Merge, rules: JobRules) -> None:
        self._merge = merge
        self._rules = rules
        self._selector = Selector(merge)
        self._solver = Solver(merge, merge.rule.coefficients) if merge.rule.coefficients else None

    def survey_model(self, jobs: list[int]) -> ModelSurvey:
        """What holds over all these tensors together: thresholds, weights or scores."""
        rule = self._merge.rule
        if self._solver is not None:
            return ModelSurvey(weights=self._solver.solve_model(jobs))
        if rule.scoring is not None:
            return ModelSurvey(scores=self._score(jobs, rule.scoring))
        if rule.weights_of_census is not None:
            return ModelSurvey(weights=self._take_census([jobs])[0])
        if rule.gate is Gate.RANDOM:
            draws = [self._rules.stages(job) for job in range(len(self._merge.works))]
            return ModelSurvey(found=self._selector.trim_drawn(jobs, draws))
        return ModelSurvey(found=self._selector.trims([jobs])[0])

    def batches(self, jobs: Sequence[int]) -> Iterator[tuple[list[int], list[Survey]]]:
        """Batches of these tensors, each with its survey if one is needed."""
        by_tensor = self._merge.rule.survey == "tensor"
        for batch in self._batches(jobs) if by_tensor else [list(jobs)]:
            yield batch, self._survey(batch)

    def _batches(self, jobs: Sequence[int]) -> Iterator[list[int]]:
        gate = self._merge.rule.gate
        selects = 2 if gate is Gate.BAND else gate in (Gate.MAGNITUDE, Gate.SPREAD)
        batch: list[int] = []
        n_bytes, searches = 0, 0.0
        for job in jobs:
            work = self._merge.works[job]
            more = len(self._merge.labels) * min(1.0, (work.n_elements + 1) / _SMALL) * selects
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

    def _survey(self, jobs: Sequence[int]) -> list[Survey]:
        """What the combine of these tensors needs to know of each."""
        rule = self._merge.rule
        if rule.gate in STAGED:
            return self._survey_stages(jobs)
        if rule.survey != "tensor":
            return [Survey() for _ in jobs]
        if self._solver is not None:
            return self._solver.solve_tensors(jobs)
        groups = [[job] for job in jobs]
        if rule.gate is Gate.MAGNITUDE:
            return [Survey(found) for found in self._selector.trims(groups)]
        if rule.gate is Gate.SPREAD:
            surveys = [Survey(found) for found in self._selector.spreads(jobs)]
            for survey, weights in zip(surveys, self._sum_squares(jobs, surveys), strict=True):
                survey.weights = weights
            return surveys
        return [Survey(weights=weights) for weights in self._take_census(groups)]

    def _survey_stages(self, jobs: Sequence[int]) -> list[Survey]:
        merge = self._merge
        tensor_wise = merge.rule.gate is Gate.BAND and not merge.rule.by_rows
        bands = self._selector.bands(jobs) if tensor_wise else [()] * len(jobs)
        surveys = [
            Survey(stages=self._rules.stages(job, found))
            for job, found in zip(jobs, bands, strict=True)
        ]
        if merge.rule.rescale != "l1":
            return surveys
        rules = self._job_rules(jobs, surveys)
        sums = merge.plan.stage_sums(rules, stage_code(merge.rule), merge.limits, merge.progress)
        for job, found, one, pair in zip(jobs, bands, surveys, sums, strict=True):
            one.factors = [l1_factor(*both) for both in zip(*pair, strict=True)]
            one.stages = self._rules.stages(job, found, one.factors)
        return surveys

    def _sum_squares(self, jobs: Sequence[int], surveys: Sequence[Survey]) -> list[list[float]]:
        """The weights of each tensor from the mean squares of the elements that stay."""
        merge, solve = self._merge, self._merge.rule.weights_of_squares
        if solve is None:
            return [[] for _ in jobs]
        rules = self._job_rules(jobs, surveys)
        sums = merge.plan.sum_squares(rules, merge.limits, merge.progress)
        return [
            solve([one / max(merge.works[job].n_elements, 1) for one in row])
            for job, row in zip(jobs, sums, strict=True)
        ]

    def _job_rules(self, jobs: Sequence[int], surveys: Sequence[Survey]) -> list[JobRule]:
        return [
            self._rules.make(job, 0, -1, survey) for job, survey in zip(jobs, surveys, strict=True)
        ]

    def _take_census(self, groups: Sequence[Sequence[int]]) -> list[list[float]]:
        """The weights of each group of tensors from what its experts have alone and share."""
        merge, solve = self._merge, self._merge.rule.weights_of_census
        if solve is None:
            return []
        jobs = [job for group in groups for job in group]
        floor = bits_of(merge.rule.epsilon)
        found = merge.plan.take_census(jobs, floor, merge.limits, merge.progress)
        census = dict(zip(jobs, found, strict=True))
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

    def _score(self, jobs: list[int], scoring: Scoring) -> list[Score]:
        merge = self._merge

        def select(ranks: Sequence[int], measure: str, scores: Sequence[Score]) -> list[Threshold]:
            (found,) = merge.plan.select(
                [Unit(jobs, ranks)],
                False,
                merge.limits,
                merge.progress,
                MEASURE_CODES[measure],
                [astuple(score) for score in scores],
                COMPANY_CODES[scoring.company],
            )
            return found

        n_elements = sum(merge.works[job].n_elements for job in jobs)
        return survey_scores(n_elements, len(merge.labels), scoring, select)
