"""Makes the rules of native passes: the work on a tensor, or a stretch of one, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

from .._core import JobRule, StageRule
from ..floats import bits_of, float32_sum
from ..spec.rules import Blend, Gate
from .codes import AGREEMENT_CODES, KEEP_ALL, STAGED
from .jobs import Merge
from .outcomes import Statistics, Trim
from .stages import stages


class JobRules:
    """Makes the native rules of the tensors of a merge, from their works and statistics."""

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
    ) -> JobRule:
        """Return the rule of a stretch of a tensor.

        Args:
            job: The number of the tensor.
            zero_sign: The sign of a cancelled vote, or 0 to drop the element.
            majority: The number of the group whose majority of signs a cancelled vote takes, or -1.
            found: The statistics of the tensor.
            first: The first element of the stretch.
            n_elements: The elements of the stretch; None for all of the tensor.
            alone: Whether the rule is at scale 1 and for a plan that has no other job.
        """
        work, rule = self._merge.works[job], self._merge.rule
        floor = bits_of(rule.epsilon) if rule.gate is Gate.ABOVE else KEEP_ALL
        trims = found.trims or self.model.trims
        trims = trims or [Trim(work.n_elements, floor)] * len(work.weights)
        weights = found.weights or self.model.weights or work.weights
        divisor = float32_sum(work.weights) if work.divisor is None else work.divisor
        by_rows = rule.by_rows or len(weights) > len(work.weights)
        return JobRule(
            job=0 if alone else job,
            first=first,
            n_elements=work.n_elements if n_elements is None else n_elements,
            weights=weights,
            floors=[trim.floor for trim in trims],
            cutoffs=[_cutoff(trim, 0 if found.trims else job, work.n_elements) for trim in trims],
            scale=1.0 if alone else self.scales[job],
            divisor=divisor if rule.blend is Blend.MEAN else 1.0,
            zero_sign=zero_sign,
            majority=majority,
            lambdas=work.lambdas,
            at_least=rule.at_least,
            stages=found.stages or self.stages(job),
            row_length=max(work.row_length, 1) if by_rows else 0,
            scores=[astuple(score) for score in self.model.scores],
            agreement=AGREEMENT_CODES[rule.agreement],
        )

    def without_votes(self, jobs: Sequence[int], found: Sequence[Statistics]) -> list[JobRule]:
        """Return the rules of whole tensors for a survey, which elects no signs."""
        return [self.make(job, 0, -1, one) for job, one in zip(jobs, found, strict=True)]

    def stages(
        self,
        job: int,
        bands: Sequence[Mapping[str, int]] = (),
        factors: Sequence[float] = (),
    ) -> list[StageRule]:
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
