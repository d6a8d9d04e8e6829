"""From inner products to the coefficients of a combine, for methods that state how."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..._core import Limits, Plan
from ...errors import InputError
from ...floats import float32
from ...linalg.gram import Gram
from ...messages import show
from ...spec.rules import Coefficients
from ..jobs import Merge, Work
from ..outcomes import Survey


class Solver:
    """Surveys inner products and solves for coefficients: of all tensors, or each, or each row.

    Coefficients are float32 values, all NaN where an inner product is not finite.
    """

    def __init__(self, merge: Merge, stated: Coefficients) -> None:
        self._merge = merge
        self._stated = stated
        self._n = len(merge.labels)

    def solve_model(self, jobs: Sequence[int]) -> list[float]:
        """The coefficients that hold over all these tensors together."""
        parts = [row for rows in self._survey(jobs) for row in rows]
        return self._solve(Gram.total(self._n, parts), self._merge.works[jobs[0]])

    def solve_tensors(self, jobs: Sequence[int]) -> list[Survey]:
        """The weights of each of these tensors, or of each of its rows."""
        surveys = []
        for job, rows in zip(jobs, self._survey(jobs), strict=True):
            solved = [self._solve(Gram(self._n, row), self._merge.works[job]) for row in rows]
            mean = [math.fsum(column) / len(solved) for column in zip(*solved, strict=True)]
            weights = [weight for row in solved for weight in row]
            surveys.append(Survey(weights=weights, coefficients=mean))
        return surveys

    def _survey(self, jobs: Sequence[int]) -> list[list[Sequence[float]]]:
        """What ``Gram`` takes, of each tensor and each of its rows."""
        by_row = self._stated.scope == "row"
        works = self._merge.works
        lengths = [
            (job, max(1, works[job].row_length if by_row else works[job].n_elements))
            for job in jobs
        ]
        return inner_products(
            self._merge.plan,
            lengths,
            self._n,
            self._merge.has_base,
            self._stated.magnitudes,
            self._merge.limits,
            self._merge.progress,
        )

    def _solve(self, gram: Gram, work: Work) -> list[float]:
        if not gram.is_finite():
            return [math.nan] * gram.n
        try:
            return [float32(x) for x in self._stated.solve(gram, work.parameters)]
        except ValueError as problem:
            raise InputError(f"tensor {show(work.name)}: {problem}") from None


def inner_products(
    plan: Plan,
    rows: Sequence[tuple[int, int]],
    n: int,
    deltas: bool,
    magnitudes: bool,
    limits: Limits,
    progress: Callable[[int], object] | None,
) -> list[list[Sequence[float]]]:
    """What ``Gram`` takes, of ``n`` vectors, for each job and each of its rows.

    ``rows`` has the jobs and the length of their rows.
    """
    width = n * (n + 1) // 2 + magnitudes * n
    found = plan.gram(rows, deltas, magnitudes, limits, progress)
    tables = [memoryview(table).cast("d") for table in found]
    return [[table[at : at + width] for at in range(0, len(table), width)] for table in tables]
