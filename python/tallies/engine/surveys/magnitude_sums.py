"""The survey of sums of magnitudes, before and after a stage, which L1 rescaling restores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..outcomes import Statistics
from ..stages import l1_factor
from .survey import Context, Survey


class MagnitudeSums(Survey):
    """Sums each expert's magnitudes over a tensor, of all entries and of those that a stage leaves.

    The factor is their quotient; 1 where a sum is below 1e-7 or is not finite.
    """

    def take(self, context: Context, groups: Sequence[Sequence[int]]) -> list[Statistics]:
        """Return the stages of each tensor with their factors, one per expert."""
        jobs = [job for group in groups for job in group]
        return rescaled(context, jobs, [Statistics() for _ in jobs], [()] * len(jobs))


SURVEY = MagnitudeSums


def rescaled(
    context: Context,
    jobs: Sequence[int],
    found: Sequence[Statistics],
    bands: Sequence[Sequence[Mapping[str, int]]],
) -> list[Statistics]:
    """Return the statistics of tensors with factors that restore the sums of magnitudes.

    Args:
        context: The merge.
        jobs: Numbers of the tensors.
        found: The statistics of each tensor so far, with its stages if they follow from bands.
        bands: The bands of each tensor, one per expert; empty where the stage has none.
    """
    merge, tasks = context.merge, context.tasks
    sums = merge.plan.stage_sums(
        tasks=[tasks.stage_sums(job, one) for job, one in zip(jobs, found, strict=True)],
        limits=merge.limits,
        progress=merge.progress,
    )
    factors = [
        [l1_factor(*both) for both in zip(one.before, one.after, strict=True)] for one in sums
    ]
    return [
        Statistics(factors=row, stages=tasks.stages(job, band, row))
        for job, band, row in zip(jobs, bands, factors, strict=True)
    ]
