"""What the native code is to do with a tensor or a stretch of one, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

from .._core import JobRule, StageRule
from ..floats import bits_of, float32_sum
from ..spec.rules import Blend, Gate
from .codes import COMPANY_CODES, KEEP_ALL, STAGED
from .jobs import Merge
from .outcomes import Found, ModelSurvey, Survey
from .stages import stages


class JobRules:
    """Makes the rules of the jobs of a merge, from their works and what surveys found."""

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
    ) -> JobRule:
        """The rule of a stretch of a job, by default the whole of it.

        With ``alone``, at scale 1 and for a plan that has no other job.
        """
        work, rule, scoring = self._merge.works[job], self._merge.rule, self._merge.rule.scoring
        floor = bits_of(rule.epsilon) if rule.gate is Gate.ABOVE else KEEP_ALL
        trims = survey.found or self.model.found
        trims = trims or [Found(work.n_elements, floor)] * len(work.weights)
        weights = survey.weights or self.model.weights or work.weights
        divisor = float32_sum(work.weights) if work.divisor is None else work.divisor
        by_rows = rule.by_rows or len(weights) > len(work.weights)
        return JobRule(
            0 if alone else job,
            first,
            work.n_elements if n_elements is None else n_elements,
            weights,
            [trim.floor for trim in trims],
            [_cutoff(trim, 0 if survey.found else job, work.n_elements) for trim in trims],
            1.0 if alone else self.scales[job],
            divisor if rule.blend is Blend.MEAN else 1.0,
            zero_sign,
            majority,
            work.lambdas,
            rule.at_least,
            survey.stages,
            max(work.row_length, 1) if by_rows else 0,
            scores=[astuple(score) for score in self.model.scores],
            company=COMPANY_CODES[scoring.company] if scoring else 0,
        )

    def stages(
        self,
        job: int,
        bands: Sequence[Mapping[str, int]] = (),
        factors: Sequence[float] = (),
    ) -> list[StageRule]:
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
