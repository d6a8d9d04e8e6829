"""The survey of trims: the exact k-th largest magnitude of each expert.

Also the ranks that a density asks for, which other selections share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..._core import Slice, Threshold, Unit
from ...errors import InputError
from ...spec.choices import Equal, Semantics
from ...spec.parameters import Values
from ..codes import KEEP_ALL, KEEP_NONE
from ..outcomes import Statistics, Trim
from .survey import Asked, Context, GuessingSurvey


@dataclass(frozen=True)
class Rank:
    """The entries that survive a trim: all, none, or those from the ``rank``-th largest up."""

    rank: int
    """Counted from the largest magnitude, from 1; 0 where no threshold is needed."""
    keep_all: bool = False


ALL = Rank(0, keep_all=True)
NONE = Rank(0)


class Trims(GuessingSurvey):
    """Finds the threshold of each expert over a tensor or over the model.

    NaN ranks above every number. The rule's ``equal`` says how many of equal magnitudes survive;
    the first are those of the first tensor, then of the first element.
    """

    n_searches = 1
    ranks_magnitudes = True

    def spares(self, parameters: Values) -> bool:
        """Return True where all entries survive, and no threshold is searched."""
        densities = parameters.get("density", ())  # a codec has its own
        return bool(densities) and all(density >= 1 for density in densities)

    def check(self, parameters: Sequence[Values], labels: Sequence[str]) -> None:
        """Raise InputError if one threshold is to hold for tensors of different densities."""
        if self.of_model:
            model_densities([values["density"] for values in parameters], labels)

    def ask(self, context: Context, groups: Sequence[Sequence[int]]) -> Asked:
        """Return the thresholds of each group of tensors, whose entries are ranked together."""
        equal = context.merge.rule.equal
        ranks = [_ranks(context, group) for group in groups]
        works = context.merge.works
        # With their lengths, because guesses of an earlier run are read without a plan.
        units = [
            Unit(
                jobs=[Slice(job=job, n_elements=works[job].n_elements) for job in group],
                ranks=[one.rank for one in row],
            )
            for group, row in zip(groups, ranks, strict=True)
        ]

        def answer(thresholds: Sequence[Sequence[Threshold]]) -> list[Statistics]:
            return [
                Statistics(
                    trims=[
                        trim(context, group, *pair, equal) for pair in zip(row, found, strict=True)
                    ]
                )
                for group, row, found in zip(groups, ranks, thresholds, strict=True)
            ]

        searches = [[i if one.rank > 0 else -1 for i, one in enumerate(row)] for row in ranks]
        return Asked(units, equal is Equal.FIRST, searches, answer)

    def take(self, context: Context, groups: Sequence[Sequence[int]]) -> list[Statistics]:
        """Return the trims of each group of tensors."""
        merge, asked = context.merge, self.ask(context, groups)
        thresholds = merge.plan.select(
            units=asked.units, locate=asked.locate, limits=merge.limits, progress=merge.progress
        )
        return asked.answer(thresholds)


SURVEY = Trims


def rank(n_elements: int, density: float, equal: Equal, semantics: Semantics) -> Rank:
    """Return the rank of the threshold that trims ``n_elements`` entries to ``density``.

    ``Equal.KEEP`` is the rule of the TIES authors: k = int(n * density), the threshold is the
    (n - k)-th smallest magnitude, and all that reach it survive: k + 1 entries without equal ones.
    ``Equal.FIRST`` keeps exactly k. mergekit keeps at least one entry of a tensor.
    Density 0 keeps none, but in FusionBench, as in the authors' code, those of the largest
    magnitude.

    Yadav et al., TIES-Merging, 2023, arXiv 2306.01708.

    >>> rank(10, 0.2, Equal.KEEP, Semantics.PAPER)
    Rank(rank=3, keep_all=False)
    """
    if n_elements == 0 or density >= 1:
        return ALL
    if density <= 0 and semantics is not Semantics.FUSIONBENCH:
        return NONE
    k = int(n_elements * density)
    if semantics is Semantics.MERGEKIT:
        k = max(1, k)
    if k >= n_elements:
        return ALL
    if equal is Equal.KEEP:
        return Rank(k + 1)
    return Rank(k) if k > 0 else NONE


def trim(
    context: Context, group: Sequence[int], wanted: Rank, threshold: Threshold, equal: Equal
) -> Trim:
    """Return the trim of one expert over a group of tensors from the threshold of a rank."""
    if wanted.rank == 0:
        n = context.n_elements(group) if wanted.keep_all else 0
        return Trim(n, KEEP_ALL if wanted.keep_all else KEEP_NONE)
    floor = threshold.bits - 1
    if equal is Equal.KEEP:
        return Trim(threshold.n_above + threshold.n_equal, floor, threshold.bits)
    if threshold.last_job == len(group):
        return Trim(wanted.rank, floor, threshold.bits)
    return Trim(wanted.rank, floor, threshold.bits, threshold.last_job, threshold.last_count)


def model_densities(rows: Sequence[Sequence[float]], labels: Sequence[str]) -> list[float]:
    """Return the one density that each expert has over tensors that are ranked together.

    Args:
        rows: The experts' densities of each tensor.
        labels: The experts, as messages name them.

    Raises:
        InputError: The density of an expert varies.
    """
    densities = []
    for expert, label in enumerate(labels):
        values = {row[expert] for row in rows}
        if len(values) > 1:
            raise InputError(
                f"{label}: density varies over the tensors (from {min(values):g} to "
                f"{max(values):g}), but with 'scope: model' one threshold holds for all of them; "
                "give one density, or set 'scope: tensor' or 'semantics: mergekit'"
            )
        densities.append(values.pop() if values else 1.0)
    return densities


def _ranks(context: Context, group: Sequence[int]) -> list[Rank]:
    merge = context.merge
    rows = [merge.works[job].densities for job in group]
    n_elements = context.n_elements(group)
    labels = merge.labels[: merge.n_experts(group[0])] if group else merge.labels
    return [
        rank(n_elements, density, merge.rule.equal, merge.semantics)
        for density in model_densities(rows, labels)
    ]
