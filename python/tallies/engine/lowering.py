"""Makes the tasks of native passes: the work on a tensor, or a slice of one, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

from .._core import Candidate, CombineTask, Draw, Slice, StageTask, VarianceTask
from ..floats import bits_of, float32_sum
from ..spec.rules import MEANS, Gate
from .codes import AGREEMENT_CODES, KEEP_ALL, STAGED
from .jobs import Merge, Work
from .outcomes import Stage, Statistics, Trim
from .stages import stages


class Tasks:
    """Makes the native tasks of the tensors of a merge, from their works and statistics."""

    def __init__(self, merge: Merge) -> None:
        self._merge = merge
        self.model = Statistics()
        """The statistics that hold for all tensors."""
        self.scales = [work.scale for work in merge.works]
        """The factor on the merged task vector of each tensor."""

    def make(
        self,
        job: int,
        zero_sign: int,
        majority: int,
        found: Statistics,
        first: int = 0,
        n_elements: int | None = None,
        *,
        alone: bool = False,
        unit: int = -1,
        searches: Sequence[int] = (),
    ) -> CombineTask:
        """Return the task of combining a slice of a tensor.

        Args:
            job: The number of the tensor.
            zero_sign: The sign of a cancelled vote, or 0 to drop the element.
            majority: The number of the group whose majority of signs a cancelled vote takes, or -1.
            found: The statistics of the tensor.
            first: The first element of the slice.
            n_elements: The elements of the slice; None for all of the tensor.
            alone: True for a task at scale 1, of a plan that has no other job.
            unit: The unit of guessed thresholds that has the tensor, or -1.
            searches: The search of each expert's threshold in that unit, or -1.
        """
        work, rule = self._merge.works[job], self._merge.rule
        trims = self._trims(work, found)
        weights = found.weights or self.model.weights or work.weights
        divisor = float32_sum(work.weights) if work.divisor is None else work.divisor
        candidate = Candidate(
            weights=weights,
            row_length=max(work.row_length, 1) if len(weights) > len(work.weights) else 0,
            floors=[trim.floor for trim in trims],
            cutoffs=[_cutoff(trim, 0 if found.trims else job, work.n_elements) for trim in trims],
            scale=1.0 if alone else self.scales[job],
            divisor=divisor if rule.blend in MEANS else 1.0,
            zero_sign=zero_sign,
            majority=majority,
            searches=searches,
        )
        stages = found.stages or self.stages(job)
        draws = [stage for stage in stages if isinstance(stage, Draw)]
        return CombineTask(
            job=Slice(job=0 if alone else job, first=first, n_elements=n_elements),
            candidates=[candidate],
            stages=[] if draws else stages,
            row_length=self._row_length(work),
            draws=draws,
            scores=[astuple(score) for score in self.model.scores],
            agreement=AGREEMENT_CODES[rule.agreement],
            lambdas=work.lambdas,
            at_least=rule.at_least,
            unit=unit,
        )

    def stage_sums(self, job: int, found: Statistics) -> StageTask:
        """Return the task of summing a tensor's magnitudes before and after its stages."""
        stages = found.stages or self.stages(job)
        row_length = self._row_length(self._merge.works[job])
        return StageTask(job=job, stages=stages, row_length=row_length)

    def square_sums(self, job: int, found: Statistics) -> VarianceTask:
        """Return the task of summing the squares of the entries that pass the variance gate."""
        work = self._merge.works[job]
        trim = self._trims(work, found)[0]
        return VarianceTask(job=job, floor=trim.floor, cutoff=_cutoff(trim, 0, work.n_elements))

    def _trims(self, work: Work, found: Statistics) -> Sequence[Trim]:
        """Return the trims of a tensor, one per expert."""
        rule = self._merge.rule
        floor = bits_of(rule.epsilon) if rule.gate is Gate.ABOVE else KEEP_ALL
        untrimmed = [Trim(work.n_elements, floor)] * len(work.weights)
        return found.trims or self.model.trims or untrimmed

    def _row_length(self, work: Work) -> int:
        """Return the elements of a row for gates that need whole rows; 0 for other gates."""
        return max(work.row_length, 1) if self._merge.rule.by_rows else 0

    def stages(
        self,
        job: int,
        bands: Sequence[Mapping[str, int]] = (),
        factors: Sequence[float] = (),
    ) -> list[Stage]:
        """Return the stage of each expert in a tensor; empty where the gate is none.

        Args:
            job: The number of the tensor.
            bands: The bands of the whole tensor, one per expert, where the rule has such.
            factors: The factors of L1 rescaling, one per expert, once they are found.
        """
        rule = self._merge.rule
        if rule.gate not in STAGED:
            return []
        work, semantics, seed = self._merge.works[job], self._merge.semantics, self._merge.seed
        return stages(rule, work, semantics, seed, bands, factors)


def _cutoff(trim: Trim, position: int, n_elements: int) -> int:
    """Return the element of a tensor from which on entries equal to the threshold are trimmed."""
    if trim.last_job is None or position < trim.last_job:
        return n_elements
    return trim.last_count if position == trim.last_job else 0
