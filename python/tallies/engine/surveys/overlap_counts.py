"""The survey of overlap counts: the entries that an expert changes alone, and with others."""

from __future__ import annotations

from collections.abc import Sequence

from ...floats import bits_of
from ..outcomes import Statistics
from .survey import Context, Survey


class OverlapCounts(Survey):
    """Counts the entries of magnitudes above the rule's ``epsilon``, alone and shared.

    ``solve`` takes, for each expert, the number of elements that it alone changes and the number
    that it changes with others. NaN counts as a change.
    """

    def take(self, context: Context, groups: Sequence[Sequence[int]]) -> list[Statistics]:
        """Return the weights of each group of tensors, whose counts are added up."""
        assert self.solve is not None, "a rule that counts overlaps says what follows from them"
        merge = context.merge
        jobs = [job for group in groups for job in group]
        found = merge.plan.count_overlap(
            jobs=jobs,
            floor=bits_of(merge.rule.epsilon),
            limits=merge.limits,
            progress=merge.progress,
        )
        counts = dict(zip(jobs, found, strict=True))
        return [
            Statistics(
                weights=self.solve(
                    _total([counts[job].alone for job in group]),
                    _total([counts[job].shared for job in group]),
                )
            )
            for group in groups
        ]


SURVEY = OverlapCounts


def _total(rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the sum of each column."""
    return [sum(column) for column in zip(*rows, strict=True)]
