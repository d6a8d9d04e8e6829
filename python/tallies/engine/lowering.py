"""What the native code is to do with a tensor or a stretch of one, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

from .._core import Candidate, CombineTask, Draw, Slice, StageTask, VarianceTask
from ..floats import bits_of, float32_sum
from ..spec.rules import Blend, Gate
from .codes import AGREEMENT_CODES, KEEP_ALL, STAGED
from .jobs import Merge, Work
from .outcomes import Found, ModelSurvey, Stage, Survey
from .stages import stages


class Tasks:
    """Makes the native tasks of a merge, from its works and what surveys found."""

    def __init__(self, merge: Merge) -> None:
        self._merge = merge
        self.model = ModelSurvey()
        """What holds over all tensors."""
        self.scales = [work.scale for work in merge.works]
        """The factor on the merged task vector of each tensor."""

    def make(
        self,
        job: int,
        zero_sign: int,
        majority: int,
        survey: Survey,
        first: int = 0,
        n_elements: int | None = None,
        *,
        alone: bool = False,
    ) -> CombineTask:
        """Return the task of combining a slice of a job, by default the whole of it.

        With ``alone``, at scale 1 and for a plan that has no other job.
        """
        work, rule, scoring = self._merge.works[job], self._merge.rule, self._merge.rule.scoring
        trims = self._trims(job, survey)
        weights = survey.weights or self.model.weights or work.weights
        divisor = float32_sum(work.weights) if work.divisor is None else work.divisor
        candidate = Candidate(
            weights=weights,
            row_length=max(work.row_length, 1) if len(weights) > len(work.weights) else 0,
            floors=[trim.floor for trim in trims],
            cutoffs=[_cutoff(trim, 0 if survey.found else job, work.n_elements) for trim in trims],
            scale=1.0 if alone else self.scales[job],
            divisor=divisor if rule.blend is Blend.MEAN else 1.0,
            zero_sign=zero_sign,
            majority=majority,
        )
        draws = rule.gate is Gate.RANDOM
        return CombineTask(
            job=Slice(job=0 if alone else job, first=first, n_elements=n_elements),
            candidates=[candidate],
            stages=() if draws else survey.stages,
            row_length=self._row_length(work),
            draws=[stage for stage in survey.stages if isinstance(stage, Draw)],
            scores=[astuple(score) for score in self.model.scores],
            agreement=AGREEMENT_CODES[scoring.agreement] if scoring else 0,
            lambdas=work.lambdas,
            at_least=rule.at_least,
        )

    def make_stage_sums(self, job: int, survey: Survey) -> StageTask:
        """Return the task of summing magnitudes before and after the stages of a job."""
        work = self._merge.works[job]
        return StageTask(job=job, stages=survey.stages, row_length=self._row_length(work))

    def make_square_sums(self, job: int, survey: Survey) -> VarianceTask:
        """Return the task of summing the squares of the elements that pass the variance gate."""
        work, trim = self._merge.works[job], self._trims(job, survey)[0]
        cutoff = _cutoff(trim, 0 if survey.found else job, work.n_elements)
        return VarianceTask(job=job, floor=trim.floor, cutoff=cutoff)

    def _trims(self, job: int, survey: Survey) -> Sequence[Found]:
        work, rule = self._merge.works[job], self._merge.rule
        floor = bits_of(rule.epsilon) if rule.gate is Gate.ABOVE else KEEP_ALL
        all_alike = [Found(work.n_elements, floor)] * len(work.weights)
        return survey.found or self.model.found or all_alike

    def _row_length(self, work: Work) -> int:
        return max(work.row_length, 1) if self._merge.rule.by_rows else 0

    def stages(
        self,
        job: int,
        bands: Sequence[Mapping[str, int]] = (),
        factors: Sequence[float] = (),
    ) -> list[Stage]:
        """What becomes of each task vector before the blend; empty where nothing does."""
        rule = self._merge.rule
        if rule.gate not in STAGED:
            return []
        work, semantics, seed = self._merge.works[job], self._merge.semantics, self._merge.seed
        return stages(rule, work, semantics, seed, bands, factors)


def _cutoff(found: Found, position: int, n_elements: int) -> int:
    """The element of a tensor from which on entries equal to the threshold are trimmed."""
    if found.last_job is None or position < found.last_job:
        return n_elements
    return found.last_count if position == found.last_job else 0
