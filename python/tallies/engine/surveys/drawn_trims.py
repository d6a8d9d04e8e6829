"""The survey of drawn trims: the k-th largest magnitude of what a random drop leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..._core import Draw, Unit
from ...spec.choices import Equal
from ..codes import Measure
from ..outcomes import Statistics
from .survey import Context, Survey
from .trims import rank, trim


@dataclass(frozen=True, kw_only=True)
class DrawnTrims(Survey):
    """Finds the threshold of each expert over the drawn entries of all tensors.

    The rank is that of a trim of all entries; dropped ones count as zeros.
    """

    density: float
    """The share of each expert's entries that survives drop and trim."""

    def take(self, context: Context, groups: Sequence[Sequence[int]]) -> list[Statistics]:
        """Return the trims of each group of tensors, whose entries are ranked together."""
        return [self._take(context, group) for group in groups]

    def _take(self, context: Context, group: Sequence[int]) -> Statistics:
        merge = context.merge
        n_elements, equal = context.n_elements(group), merge.rule.equal
        wanted = rank(n_elements, self.density, equal, merge.semantics)
        (thresholds,) = merge.plan.select(
            units=[Unit(jobs=list(group), ranks=[wanted.rank] * len(merge.labels))],
            locate=equal is Equal.FIRST,
            limits=merge.limits,
            progress=merge.progress,
            measure=Measure.DRAWN,
            draws=[
                [stage for stage in context.tasks.stages(job) if isinstance(stage, Draw)]
                for job in range(len(merge.works))
            ],
        )
        return Statistics(
            trims=[trim(context, group, wanted, threshold, equal) for threshold in thresholds]
        )


SURVEY = DrawnTrims
