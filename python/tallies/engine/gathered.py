"""States tensors in other rows as native passes take them: gathered rows, means and padding."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from itertools import pairwise

from .._core import Change, Plan, StoredRows
from ..checkpoint.row_maps import Gathered
from ..checkpoint.tensors import TensorInfo
from ..spec.dtypes import DTYPE_CODES
from .norms import mean_row
from .operands import Changed, GatheredRows, Operand, Place, Scaled

_F32 = DTYPE_CODES["F32"]


def gathered_rows(
    stated: Gathered,
    source: Place | Scaled,
    place: Callable[[TensorInfo], Place],
    open_plan: Callable[[], Plan],
) -> Operand:
    """Return a tensor in other rows as an input of a job.

    Args:
        stated: The rows.
        source: The tensor that they are taken from, read without changes.
        place: Returns the place of the values of a tensor of another model.
        open_plan: Returns a plan with a base and without jobs, in which the files are open.

    Raises:
        StorageError: A file cannot be read: the mean for padding is found at once.
    """
    rows, columns = stated.rows, math.prod(stated.source.shape[1:])
    numbers = [*rows.own, *([-1] * rows.n_padding)]
    found = Changed(GatheredRows(source, StoredRows(numbers), columns), ())
    averaged = list(rows.averaged())
    if averaged:
        for model, step in _steps(averaged):
            found = found.then(_added(step, place(stated.others[model]), columns), 1)
        counts = array("f", (len(pairs) for _, pairs in averaged))
        divided = Change.row_divisors(
            indices=[row for row, _ in averaged], divisors=_place(counts), columns=columns
        )
        found = found.then(divided, 1, counts)
    if rows.n_padding:
        n_tokens = len(rows.own)
        mean = mean_row(open_plan, found, n_tokens * columns, columns)
        padded = Change.rows(
            indices=range(n_tokens, rows.n_rows),
            values=_place(mean),
            columns=columns,
            taken=StoredRows([0] * rows.n_padding),
        )
        found = found.then(padded, 1, mean)
    return found if found.changes or found.source is None else found.source


_Pairs = tuple[tuple[int, int], ...]
_Step = list[tuple[int, int]]


def _steps(averaged: Sequence[tuple[int, _Pairs]]) -> list[tuple[int, _Step]]:
    """Return the sums in an order in which each row adds its own in theirs.

    Returns:
        Numbers of models; rows of the result, ascending, with the row that is added to each.
    """
    in_order = all(a < b for _, pairs in averaged for (a, _), (b, _) in pairwise(pairs))
    steps: dict[tuple[int, int], _Step] = {}
    for row, pairs in averaged:
        for number, (model, taken) in enumerate(pairs):
            steps.setdefault((0 if in_order else number, model), []).append((row, taken))
    return [(model, steps[number, model]) for number, model in sorted(steps)]


def _added(step: _Step, values: Place, columns: int) -> Change:
    return Change.rows(
        indices=[row for row, _ in step],
        values=values,
        columns=columns,
        taken=StoredRows([taken for _, taken in step]),
        added=True,
    )


def _place(values: array[float]) -> Place:
    return (-1, values.buffer_info()[0], _F32)
