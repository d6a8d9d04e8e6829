"""The survey of bands: the entries of each tensor that are neither too large nor too small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..._core import Unit
from ...spec.choices import Equal, Rescale, Semantics
from ..jobs import Work
from ..outcomes import Statistics
from ..stages import Band, band, between
from .magnitude_sums import rescaled
from .survey import Context, Survey
from .trims import rank


class Bands(Survey):
    """Finds both thresholds of each expert's band over a tensor.

    Among magnitudes equal to a threshold, the entry with the lowest index counts as the largest.
    With ``Rescale.L1`` the survey also finds the sums of magnitudes before and after the band.
    """

    n_searches = 2
    ranks_magnitudes = True

    def take(self, context: Context, groups: Sequence[Sequence[int]]) -> list[Statistics]:
        """Return the stages of each tensor, one per expert."""
        jobs = [job for group in groups for job in group]
        bands = _bands(context, jobs)
        found = [
            Statistics(stages=context.tasks.stages(job, row))
            for job, row in zip(jobs, bands, strict=True)
        ]
        if context.merge.rule.rescale is not Rescale.L1:
            return found
        return rescaled(context, jobs, found, bands)


SURVEY = Bands


def _bands(context: Context, jobs: Sequence[int]) -> list[list[Mapping[str, int]]]:
    """Return the bands of each tensor, one per expert, as fields of native stages."""
    merge = context.merge
    works = [merge.works[job] for job in jobs]
    wanted = [_wanted(work, merge.semantics) for work in works]
    units = []
    for job, work, row in zip(jobs, works, wanted, strict=True):
        outliers = [one.n_outliers for one in row]
        lasts = [sum(one) if one.n_kept and sum(one) < work.n_elements else 0 for one in row]
        units.append(Unit(jobs=[job], ranks=outliers + lasts))
    thresholds = merge.plan.select(
        units=units, locate=True, limits=merge.limits, progress=merge.progress
    )
    return [
        [
            between(work.n_elements, *one)
            for one in zip(row, ends[: len(row)], ends[len(row) :], strict=True)
        ]
        for work, row, ends in zip(works, wanted, thresholds, strict=True)
    ]


def _wanted(work: Work, semantics: Semantics) -> list[Band]:
    """Return the band of each expert: without outliers, the entries that a trim leaves."""
    n = work.n_elements
    if work.gammas:
        pairs = zip(work.densities, work.gammas, strict=True)
        return [band(n, density, gamma, semantics) for density, gamma in pairs]
    found = [rank(n, density, Equal.FIRST, semantics) for density in work.densities]
    return [Band(0, n if one.keep_all else one.rank) for one in found]
