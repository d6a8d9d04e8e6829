"""The survey of PCB scores: where magnitudes are clipped, and which scores count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..._core import Threshold
from ...floats import LARGEST, float32, float_of
from ...spec.rules import Scoring
from ..codes import INFINITY_BITS
from ..outcomes import Score

Select = Callable[[Sequence[int], str, Sequence[Score]], list[Threshold]]
"""The thresholds of these ranks of a measure, expert by expert, as often as there are ranks."""


def survey_scores(n_elements: int, n_experts: int, scoring: Scoring, select: Select) -> list[Score]:
    """The scores of each expert over ``n_elements`` elements, from exact order statistics.

    As the authors' code counts, from the smallest and 0: magnitudes are clipped to those at
    int(n * clip) and int(n * (1 - clip) - 1); what is above the score at int(n * (1 - ratio))
    counts. Scores may be negative, and those of either sign are ranked by a pass of their own.
    """
    if n_elements == 0:
        return [Score(0.0, 0.0, 1.0)] * n_experts
    places = int(n_elements * scoring.clip), int(n_elements * (1 - scoring.clip) - 1)
    ranks = [n_elements - place for place in places for _ in range(n_experts)]
    # Magnitudes that are not finite are clipped to the largest that is.
    ends = [
        float_of(found.bits) if found.bits < INFINITY_BITS else LARGEST
        for found in select(ranks, "magnitude", ())
    ]
    scores = [
        Score(low, high, _reciprocal(float32(high - low)))
        for low, high in zip(ends[:n_experts], ends[n_experts:], strict=True)
    ]
    rank = n_elements - int(n_elements * (1 - scoring.ratio))
    if rank == 0:
        return scores
    above = select([rank] * n_experts, "score", scores)
    # Of an expert without so many scores above zero, the largest first from the other end.
    last = [n_elements - rank + 1 if found.bits == 0 else 0 for found in above]
    first = [n_elements if found.largest == 0 else 0 for found in above]
    below = select([*last, *first], "negative_score", scores) if any(last + first) else []
    complete = []
    for e, (score, found) in enumerate(zip(scores, above, strict=True)):
        threshold = float_of(found.bits) if found.bits else -float_of(below[e].bits)
        largest = float_of(found.largest) if found.largest else -float_of(below[n_experts + e].bits)
        per_range = _reciprocal(float32(largest - threshold))
        complete.append(replace(score, threshold=threshold, per_range=per_range))
    return complete


def _reciprocal(x: float) -> float:
    """In float32, 1 of zero, and the largest number where there is no reciprocal."""
    return min(float32(1 / x), LARGEST) if x > 0 else 1.0
