"""The survey of inner products of the task vectors, from which coefficients are solved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..._core import GramTask, Limits, MatrixTask, Plan, Weighed
from ...errors import InputError
from ...floats import float32
from ...linalg.gram import Gram
from ...messages import show
from ...spec.choices import Scope
from ...spec.parameters import Values
from ..jobs import Work
from ..outcomes import Statistics
from .survey import Context, Survey


@dataclass(frozen=True, kw_only=True)
class InnerProducts(Survey):
    """Finds the inner products of all pairs of task vectors: of the model, a tensor, rows, columns.

    ``solve`` takes a ``Gram`` and the parameters of the tensor (of the first tensor, over the
    model) and returns one coefficient per expert; it raises ValueError where there is no answer.
    Coefficients are float32 values, all NaN where an inner product is not finite.
    """

    magnitudes: bool = False
    """True where the sum of each expert's magnitudes is found as well."""
    concern: Callable[[Gram, Values], str | None] | None = None
    """Finds a reason to doubt the result for a tensor, or a row of it."""

    title = "survey of inner products"

    def take(self, context: Context, groups: Sequence[Sequence[int]]) -> list[Statistics]:
        """Return the coefficients of each group of tensors: as many for each row with ``ROW``."""
        merge = context.merge
        if self.scope is Scope.COLUMN:
            return self._of_columns(context, [job for group in groups for job in group])
        by_row = self.scope is Scope.ROW
        lengths = [
            (job, max(1, merge.works[job].row_length if by_row else merge.works[job].n_elements))
            for group in groups
            for job in group
        ]
        found = inner_products(
            merge.plan,
            lengths,
            [merge.n_experts(job) for job, _ in lengths],
            merge.has_base,
            self.magnitudes,
            merge.limits,
            merge.progress,
        )
        rows = {job: table for (job, _), table in zip(lengths, found, strict=True)}
        if self.of_model:
            return [
                Statistics(
                    weights=self._solve(
                        Gram.total(
                            merge.n_experts(group[0]), [row for job in group for row in rows[job]]
                        ),
                        merge.works[group[0]],
                    )
                )
                for group in groups
            ]
        return [self._of_tensor(merge.works[job], rows[job]) for group in groups for job in group]

    def _of_columns(self, context: Context, jobs: Sequence[int]) -> list[Statistics]:
        """Return the stage of each tensor, which multiplies columns by their coefficients."""
        merge = context.merge
        found = merge.plan.column_products(
            tasks=[MatrixTask(job=job, columns=_n_columns(merge.works[job])) for job in jobs],
            deltas=merge.has_base,
            limits=merge.limits.with_threads(1),  # the sums run from row to row
            progress=merge.progress,
        )
        statistics = []
        for job, table in zip(jobs, found, strict=True):
            work, n = merge.works[job], merge.n_experts(job)
            width = n * (n + 1) // 2
            one = self._of_tensor(
                work, [table[at : at + width] for at in range(0, len(table), width)]
            )
            factors, one.weights = one.weights, [1.0] * n
            one.stages = [
                Weighed(factors=factors[e::n], columns=_n_columns(work), by_column=True)
                for e in range(n)
            ]
            statistics.append(one)
        return statistics

    def _of_tensor(self, work: Work, rows: Sequence[Sequence[float]]) -> Statistics:
        """Return the weights of each row of a tensor, or of the tensor, and their means."""
        n = len(work.weights)
        grams = [Gram(n, row) for row in rows]
        solved = [self._solve(gram, work) for gram in grams]
        mean = [math.fsum(column) / len(solved) for column in zip(*solved, strict=True)]
        return Statistics(
            weights=[one for row in solved for one in row],
            coefficients=mean,
            concern=self._concern(grams, work),
        )

    def _concern(self, grams: Sequence[Gram], work: Work) -> str | None:
        """Return the first reason to doubt the result for a tensor."""
        n_each = work.n_elements
        if self.scope is Scope.ROW:
            n_each = work.row_length
        elif self.scope is Scope.COLUMN:
            n_each //= _n_columns(work)
        if self.concern is None or n_each < 2:  # numbers have a sign, not a direction
            return None
        found = (self.concern(one, work.parameters) for one in grams if one.is_finite())
        return next(filter(None, found), None)

    def _solve(self, gram: Gram, work: Work) -> list[float]:
        assert self.solve is not None, "a rule that needs inner products says what follows of them"
        if not gram.is_finite():
            return [math.nan] * gram.n
        try:
            return [float32(x) for x in self.solve(gram, work.parameters)]
        except ValueError as problem:
            raise InputError(f"tensor {show(work.name)}: {problem}") from None


SURVEY = InnerProducts


def _n_columns(work: Work) -> int:
    """Return the vectors along the first dimension of a tensor, at least one."""
    return max(math.prod(work.shape[1:]), 1)


def inner_products(
    plan: Plan,
    rows: Sequence[tuple[int, int]],
    n: int | Sequence[int],
    deltas: bool,
    magnitudes: bool,
    limits: Limits,
    progress: Callable[[int], object] | None,
) -> list[list[Sequence[float]]]:
    """Return the inner products of ``n`` vectors each, for each job and each of its rows.

    Args:
        plan: The native plan.
        rows: The numbers of the jobs and the length of their rows, in elements.
        n: The number of vectors, of all jobs or of each.
        deltas: True if the vectors are task vectors, and the first input of a job is their base.
        magnitudes: True if sums of magnitudes follow the inner products.
        limits: Threads and buffers of the pass.
        progress: Is called with the bytes moved since the last call.

    Returns:
        For each job and row the float64 sums that ``Gram`` takes: n * (n + 1) / 2 of them, and n
        sums of magnitudes.
    """
    each = [n] * len(rows) if isinstance(n, int) else n
    widths = [one * (one + 1) // 2 + magnitudes * one for one in each]
    tasks = [GramTask(job=job, row_length=length) for job, length in rows]
    found = plan.gram(
        tasks=tasks, deltas=deltas, with_magnitudes=magnitudes, limits=limits, progress=progress
    )
    tables = [memoryview(one.table()).cast("d") for one in found]
    return [
        [table[at : at + width] for at in range(0, len(table), width)]
        for table, width in zip(tables, widths, strict=True)
    ]
