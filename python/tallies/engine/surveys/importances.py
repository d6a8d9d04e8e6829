"""The survey of importances: sizes of entries times the divergences of their rows."""

from __future__ import annotations

from collections.abc import Sequence

from ..._core import MatrixTask, Threshold, Unit, Weighed
from ...floats import bits_of, float32, float_of
from ..codes import KEEP_ALL, KEEP_NONE, Measure
from ..outcomes import Statistics
from .survey import Context, Survey


class Importances(Survey):
    """Finds the divergence of each row, and the quartiles of the importances of each tensor.

    The stage of a tensor keeps the entries whose importance reaches the threshold.
    """

    title = "survey of importances"
    n_searches = 3

    @property
    def n_passes(self) -> int:
        """The number of passes over all values, if each search takes one."""
        return 2

    def take(self, context: Context, groups: Sequence[Sequence[int]]) -> list[Statistics]:
        """Return the stage of each tensor."""
        jobs = [job for group in groups for job in group]
        merge = context.merge
        works = [merge.works[job] for job in jobs]
        columns = [max(work.row_length, 1) for work in works]
        tasks = [
            MatrixTask(job=job, columns=length) for job, length in zip(jobs, columns, strict=True)
        ]
        divergences = merge.plan.divergences(
            tasks=tasks, limits=merge.limits, progress=merge.progress
        )
        stages = {
            job: [Weighed(factors=factors, columns=length)]
            for job, factors, length in zip(jobs, divergences, columns, strict=True)
        }
        found = merge.plan.select(
            units=[
                Unit(jobs=[job], ranks=ranks(work.n_elements))
                for job, work in zip(jobs, works, strict=True)
            ],
            locate=False,
            limits=merge.limits,
            progress=merge.progress,
            measure=Measure.DRAWN,
            draws=[stages.get(job, []) for job in range(len(merge.works))],
        )
        return [
            Statistics(stages=[Weighed(factors=factors, columns=length, floor=floor(quartiles))])
            for factors, length, quartiles in zip(divergences, columns, found, strict=True)
        ]


SURVEY = Importances


def ranks(n: int) -> list[int]:
    """Return the ranks of the quartiles of ``n`` numbers, from the largest and 1.

    >>> ranks(5), ranks(6), ranks(0)
    ([4, 3, 2], [5, 4, 3], [0, 0, 0])
    """
    return [n - quarter * (n - 1) // 4 if n else 0 for quarter in (1, 2, 3)]


def floor(quartiles: Sequence[Threshold]) -> int:
    """Return the bits that the importance of an entry which is taken over exceeds."""
    q1, q2, q3 = (float_of(one.bits) for one in quartiles)
    threshold = float32(q2 + float32(1.5 * float32(q3 - q1)))
    if threshold != threshold:
        return KEEP_NONE
    return bits_of(threshold) - 1 if threshold > 0 else KEEP_ALL
