"""From inner products to the coefficients of a combine, for methods that state how."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import _core
from .errors import InputError
from .floats import float32
from .methods._gram import Gram
from .methods._spec import Coefficients
from .suggest import show

if TYPE_CHECKING:
    from .passes import Work


class Solver:
    """Surveys inner products and solves for coefficients: of all tensors, or each, or each row.

    Coefficients are float32 values, all NaN where an inner product is not finite.
    """

    def __init__(
        self,
        stated: Coefficients,
        plan: _core.Plan,
        works: Sequence[Work],
        n_experts: int,
        has_base: bool,
        limits: _core.Limits,
        progress: Callable[[int], object] | None,
    ) -> None:
        self._stated = stated
        self._plan = plan
        self._works = works
        self._n = n_experts
        self._has_base = has_base
        self._limits = limits
        self._progress = progress
        self.rows: dict[int, list[list[float]]] = {}
        """Of each tensor solved last, the coefficients of each of its rows, one per expert."""

    def solve_model(self, jobs: Sequence[int]) -> list[float]:
        """The coefficients that hold over all these tensors together."""
        parts = [row for rows in self._survey(jobs) for row in rows]
        return self._solve(Gram.total(self._n, parts), self._works[jobs[0]])

    def solve_tensors(self, jobs: Sequence[int]) -> None:
        """Solve for ``rows`` of these tensors."""
        self.rows = {
            job: [self._solve(Gram(self._n, row), self._works[job]) for row in rows]
            for job, rows in zip(jobs, self._survey(jobs), strict=True)
        }

    def mean(self, job: int) -> list[float]:
        """The coefficients of a tensor solved last, averaged over its rows."""
        rows = self.rows.get(job, [])
        return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]

    def _survey(self, jobs: Sequence[int]) -> list[list[Sequence[float]]]:
        """What ``Gram`` takes, of each tensor and each of its rows."""
        by_row = self._stated.scope == "row"
        lengths = [
            (job, max(1, self._works[job].row_length if by_row else self._works[job].n_elements))
            for job in jobs
        ]
        return inner_products(
            self._plan,
            lengths,
            self._n,
            self._has_base,
            self._stated.magnitudes,
            self._limits,
            self._progress,
        )

    def _solve(self, gram: Gram, work: Work) -> list[float]:
        if not gram.is_finite():
            return [math.nan] * gram.n
        try:
            return [float32(x) for x in self._stated.solve(gram, work.parameters)]
        except ValueError as problem:
            raise InputError(f"tensor {show(work.name)}: {problem}") from None


def inner_products(
    plan: _core.Plan,
    rows: Sequence[tuple[int, int]],
    n: int,
    deltas: bool,
    magnitudes: bool,
    limits: _core.Limits,
    progress: Callable[[int], object] | None,
) -> list[list[Sequence[float]]]:
    """What ``Gram`` takes, of ``n`` vectors, for each job and each of its rows.

    ``rows`` has the jobs and the length of their rows.
    """
    width = n * (n + 1) // 2 + magnitudes * n
    found = plan.gram(rows, deltas, magnitudes, limits, progress)
    tables = [memoryview(table).cast("d") for table in found]
    return [[table[at : at + width] for at in range(0, len(table), width)] for table in tables]
