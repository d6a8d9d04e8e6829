"""The survey of variances: the elements of a tensor on which the experts differ most."""

from __future__ import annotations

from collections.abc import Sequence

from ..._core import Unit
from ...spec.parameters import Values
from ..codes import KEEP_ALL, KEEP_NONE, Measure
from ..outcomes import Statistics, Trim
from .survey import Context, Survey
from .trims import Rank, trim


class Variances(Survey):
    """Ranks the elements of each tensor by the variance over its task vectors.

    The tensor's ``select`` is the share, of the elements whose variance is not zero, that survives
    in all experts; of equal variances the first elements. ``solve`` takes the mean square of each
    expert's surviving entries over the elements of the tensor.
    """

    n_searches = 1

    @property
    def n_passes(self) -> int:
        """The number of passes over all values, if each search takes one."""
        return 1 + (self.solve is not None)

    def spares(self, parameters: Values) -> bool:
        """Return True where all elements survive, or none, and no search is needed."""
        return not 0 < parameters["select_topk"] < 1

    def take(self, context: Context, groups: Sequence[Sequence[int]]) -> list[Statistics]:
        """Return the trims of each tensor, and the weights that ``solve`` makes of mean squares."""
        jobs = [job for group in groups for job in group]
        found = [Statistics(trims=trims) for trims in _trims(context, jobs)]
        if self.solve is None or not jobs:
            return found
        merge = context.merge
        tasks = [context.tasks.square_sums(job, one) for job, one in zip(jobs, found, strict=True)]
        sums = merge.plan.sum_squares(tasks=tasks, limits=merge.limits, progress=merge.progress)
        for job, one, row in zip(jobs, found, sums, strict=True):
            n_elements = max(merge.works[job].n_elements, 1)
            one.weights = self.solve([square / n_elements for square in row.values])
        return found


SURVEY = Variances


def _trims(context: Context, jobs: Sequence[int]) -> list[list[Trim]]:
    """Return the trims of each tensor, the same for all its experts."""
    merge = context.merge
    works = merge.works
    limited = [job for job in jobs if 0 < works[job].select < 1]
    units = [Unit(jobs=[job], ranks=[1], share=works[job].select) for job in limited]
    thresholds = merge.plan.select(
        units=units,
        locate=True,
        limits=merge.limits,
        progress=merge.progress,
        measure=Measure.VARIANCE,
    )
    rows = {job: row[0] for job, row in zip(limited, thresholds, strict=True)}
    found = []
    for job in jobs:
        if job in rows and rows[job].rank > 0:
            one = trim(context, [job], Rank(rows[job].rank), rows[job], merge.rule.equal)
        elif job not in rows and works[job].select >= 1:
            one = Trim(works[job].n_elements, KEEP_ALL)
        else:
            one = Trim(0, KEEP_NONE)
        found.append([one] * merge.n_experts(job))
    return found
