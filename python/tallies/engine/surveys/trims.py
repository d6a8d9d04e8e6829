"""The exact selection of thresholds: which entries of the task vectors stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..._core import StageRule, Threshold, Unit
from ...errors import InputError
from ...spec.choices import Equal, Semantics
from ...spec.rules import Rule
from ..codes import KEEP_ALL, KEEP_NONE, MEASURE_CODES
from ..jobs import Merge
from ..outcomes import Found
from ..stages import band, between


class Selector:
    """Selects the thresholds of a merge."""

    def __init__(self, merge: Merge) -> None:
        self._merge = merge

    def trims(self, groups: Sequence[list[int]]) -> list[list[Found]]:
        """The trims of each group of tensors that are ranked together."""
        trims = [self._wanted(group) for group in groups]
        units = [
            Unit(group, [trim.rank for trim in row])
            for group, row in zip(groups, trims, strict=True)
        ]
        locate = self._merge.rule.equal is Equal.FIRST
        thresholds = self._merge.plan.select(
            units, locate, self._merge.limits, self._merge.progress
        )
        return [
            [self._found(group, *pair) for pair in zip(row, found, strict=True)]
            for group, row, found in zip(groups, trims, thresholds, strict=True)
        ]

    def trim_drawn(self, jobs: list[int], draws: Sequence[Sequence[StageRule]]) -> list[Found]:
        """The trim of each expert over these tensors, of what the draws of all tensors leave."""
        merge = self._merge
        wanted = trim(self._n_elements(jobs), merge.rule.trim, merge.rule, merge.semantics)
        ranks = [wanted.rank] * len(merge.labels)
        measure = MEASURE_CODES["drawn"]
        (thresholds,) = merge.plan.select(
            [Unit(jobs, ranks)],
            merge.rule.equal is Equal.FIRST,
            merge.limits,
            merge.progress,
            measure,
            draws=draws,
        )
        return [self._found(jobs, wanted, threshold) for threshold in thresholds]

    def spreads(self, jobs: Sequence[int]) -> list[list[Found]]:
        """Which elements of each tensor stay, the same for all experts."""
        works = self._merge.works
        limited = [job for job in jobs if 0 < works[job].select < 1]
        units = [Unit([job], [1], works[job].select) for job in limited]
        thresholds = self._merge.plan.select(
            units, True, self._merge.limits, self._merge.progress, MEASURE_CODES["spread"]
        )
        rows = {job: row[0] for job, row in zip(limited, thresholds, strict=True)}
        found = []
        for job in jobs:
            if job in rows and rows[job].rank > 0:
                one = self._found([job], Trim(rows[job].rank), rows[job])
            elif job not in rows and works[job].select >= 1:
                one = Found(works[job].n_elements, KEEP_ALL)
            else:
                one = Found(0, KEEP_NONE)
            found.append([one] * len(self._merge.labels))
        return found

    def bands(self, jobs: Sequence[int]) -> list[list[Mapping[str, int]]]:
        """The bands of each tensor, one per expert."""
        works = [self._merge.works[job] for job in jobs]
        wanted = [
            [
                band(work.n_elements, density, gamma, self._merge.semantics)
                for density, gamma in zip(work.densities, work.gammas, strict=True)
            ]
            for work in works
        ]

        units = []
        for job, work, row in zip(jobs, works, wanted, strict=True):
            outliers = [one.n_outliers for one in row]
            lasts = [sum(one) if one.n_kept and sum(one) < work.n_elements else 0 for one in row]
            units.append(Unit([job], outliers + lasts))
        thresholds = self._merge.plan.select(units, True, self._merge.limits, self._merge.progress)
        n = len(self._merge.labels)
        return [
            [between(work.n_elements, *one) for one in zip(row, ends[:n], ends[n:], strict=True)]
            for work, row, ends in zip(works, wanted, thresholds, strict=True)
        ]

    def _n_elements(self, group: Sequence[int]) -> int:
        return sum(self._merge.works[job].n_elements for job in group)

    def _wanted(self, group: Sequence[int]) -> list[Trim]:
        rows = [self._merge.works[job].densities for job in group]
        return [
            trim(self._n_elements(group), density, self._merge.rule, self._merge.semantics)
            for density in model_densities(rows, self._merge.labels)
        ]

    def _found(self, group: Sequence[int], trim: Trim, threshold: Threshold) -> Found:
        if trim.rank == 0:
            n = self._n_elements(group) if trim.keep_all else 0
            return Found(n, KEEP_ALL if trim.keep_all else KEEP_NONE)
        floor = threshold.bits - 1
        if self._merge.rule.equal is Equal.KEEP:
            return Found(threshold.n_above + threshold.n_equal, floor, threshold.bits)
        if threshold.last_job == len(group):
            return Found(trim.rank, floor, threshold.bits)
        return Found(trim.rank, floor, threshold.bits, threshold.last_job, threshold.last_count)


@dataclass(frozen=True)
class Trim:
    """How many entries stay: all, none, or those from the ``rank``-th largest magnitude up."""

    rank: int
    """Counted from the largest, from 1; 0 when no threshold is needed."""
    keep_all: bool = False


ALL = Trim(0, keep_all=True)
NONE = Trim(0)


def trim(n_elements: int, density: float, rule: Rule, semantics: Semantics) -> Trim:
    """The trim of ``n_elements`` entries to ``density`` under a rule and semantics.

    ``equal: keep`` is the TIES authors' rule: k = int(n * density), the threshold is the (n - k)-th
    smallest magnitude, and all that reach it stay, which is k + 1 entries without equal ones.
    ``equal: first`` keeps exactly k. mergekit keeps at least one entry of a tensor.

    >>> from tallies.methods import get
    >>> from tallies.spec.choices import Scope
    >>> trim(10, 0.2, get("ties").rule(
    ...     {"scope": Scope.MODEL, "equal": Equal.KEEP, "normalize": True}, Semantics.PAPER
    ... ), Semantics.PAPER)
    Trim(rank=3, keep_all=False)
    """
    if n_elements == 0 or density >= 1:
        return ALL
    if density <= 0:
        return NONE
    k = int(n_elements * density)
    if semantics is Semantics.MERGEKIT:
        k = max(1, k)
    if k >= n_elements:
        return ALL
    if rule.equal is Equal.KEEP:
        return Trim(k + 1)
    return Trim(k) if k > 0 else NONE


def model_densities(rows: Sequence[Sequence[float]], labels: Sequence[str]) -> list[float]:
    """The one density that each expert has over tensors that are ranked together.

    ``rows`` has the experts' densities of each tensor; InputError when one of them varies.
    """
    densities = []
    for expert, label in enumerate(labels):
        values = {row[expert] for row in rows}
        if len(values) > 1:
            raise InputError(
                f"{label}: density varies over the tensors (from {min(values):g} to "
                f"{max(values):g}), but with 'scope: model' one threshold holds for all of them; "
                "give one density, or set 'scope: tensor'"
            )
        densities.append(values.pop() if values else 1.0)
    return densities
