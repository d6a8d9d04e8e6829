"""The survey of PCB scores: the magnitudes at which they are clipped, and the scores that count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace

from ..._core import Threshold, Unit
from ...floats import LARGEST, float32, float_of
from ..codes import AGREEMENT_CODES, INFINITY_BITS, Measure
from ..outcomes import Score, Statistics
from .survey import Context, Survey

Select = Callable[[Sequence[int], Measure, Sequence[Score]], list[Threshold]]
"""Returns the thresholds of these ranks of a measure, expert by expert, as often as there are."""


@dataclass(frozen=True, kw_only=True)
class Scores(Survey):
    """Finds the scores of each expert over the model, from exact order statistics.

    Du et al., Parameter Competition Balancing for Model Merging, 2024, arXiv 2410.02396.
    """

    ratio: float
    """The share of an expert's scores that counts."""
    clip: float
    """The share of its magnitudes that is clipped at either end."""

    @property
    def n_passes(self) -> int:
        """The number of passes over all values, if each search takes one."""
        return 2

    def take(self, context: Context, groups: Sequence[Sequence[int]]) -> list[Statistics]:
        """Return the scores of each group of tensors, one per expert."""
        return [Statistics(scores=self._take(context, group)) for group in groups]

    def _take(self, context: Context, group: Sequence[int]) -> list[Score]:
        merge = context.merge

        def select(
            ranks: Sequence[int], measure: Measure, scores: Sequence[Score]
        ) -> list[Threshold]:
            (found,) = merge.plan.select(
                units=[Unit(jobs=list(group), ranks=ranks)],
                locate=False,
                limits=merge.limits,
                progress=merge.progress,
                measure=measure,
                scores=[astuple(score) for score in scores],
                agreement=AGREEMENT_CODES[merge.rule.agreement],
            )
            return found

        n_elements = context.n_elements(group)
        return survey_scores(n_elements, len(merge.labels), self.ratio, self.clip, select)


SURVEY = Scores


def survey_scores(
    n_elements: int, n_experts: int, ratio: float, clip: float, select: Select
) -> list[Score]:
    """Return the scores of each expert over ``n_elements`` elements.

    As the authors' code counts, from the smallest and 0: magnitudes are clipped to those at
    int(n * clip) and int(n * (1 - clip) - 1); scores above the one at int(n * (1 - ratio)) count.
    Scores may be negative, and those of either sign are ranked by a pass of their own.
    """
    if n_elements == 0:
        return [Score(0.0, 0.0, 1.0)] * n_experts
    places = int(n_elements * clip), int(n_elements * (1 - clip) - 1)
    ranks = [n_elements - place for place in places for _ in range(n_experts)]
    # Magnitudes that are not finite are clipped to the largest that is.
    ends = [
        float_of(found.bits) if found.bits < INFINITY_BITS else LARGEST
        for found in select(ranks, Measure.MAGNITUDE, ())
    ]
    scores = [
        Score(low, high, _reciprocal(float32(high - low)))
        for low, high in zip(ends[:n_experts], ends[n_experts:], strict=True)
    ]
    rank = n_elements - int(n_elements * (1 - ratio))
    if rank == 0:
        return scores
    above = select([rank] * n_experts, Measure.SCORE, scores)
    # An expert with fewer scores above zero: the largest of its negative ones come first there.
    last = [n_elements - rank + 1 if found.bits == 0 else 0 for found in above]
    first = [n_elements if found.largest == 0 else 0 for found in above]
    below = select([*last, *first], Measure.NEGATIVE_SCORE, scores) if any(last + first) else []
    complete = []
    for e, (score, found) in enumerate(zip(scores, above, strict=True)):
        threshold = float_of(found.bits) if found.bits else -float_of(below[e].bits)
        largest = float_of(found.largest) if found.largest else -float_of(below[n_experts + e].bits)
        per_range = _reciprocal(float32(largest - threshold))
        complete.append(replace(score, threshold=threshold, per_range=per_range))
    return complete


def _reciprocal(x: float) -> float:
    """Return 1 / x in float32; 1 for zero, and the largest number where there is no reciprocal."""
    return min(float32(1 / x), LARGEST) if x > 0 else 1.0
