"""Finds the factors that give the rows or columns of a matrix the norms that an adapter learned."""

from __future__ import annotations

import ctypes
import math
from array import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .._core import GramTask, Plan, Source, read_delta
from ..checkpoint.changes import Magnitudes
from ..checkpoint.data import chunks
from ..spec.dtypes import DTYPE_CODES
from .limits import limits_in_memory
from .operands import Operand, grain_of, moved_operand, native

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ELEMENTS = 1 << 18
"""Elements that are read at once for norms of columns, or the rows that share scales."""


def norm_factors(
    open_plan: Callable[[], Plan], values: Operand, n_elements: int, change: Magnitudes
) -> array[float]:
    """Return the magnitudes divided by the L2 norms that rows or columns have.

    Sums are float64; norms are rounded to float32, and so are the factors, as PEFT does. No number
    depends on the number of threads.

    Args:
        open_plan: Returns a plan with a base and without jobs, in which the files are open.
        values: The values before the change.
        n_elements: Their number.
        change: The magnitudes.

    Returns:
        One float32 factor for each row or column.

    Raises:
        StorageError: A file cannot be read.
    """
    import numpy as np

    find = _of_columns if change.of_columns else _of_rows
    sums = find(open_plan, values, n_elements, change.columns)
    with np.errstate(all="ignore"):
        norms = np.sqrt(sums).astype(np.float32)
        return array("f", (_widened(change) / norms).tobytes())


def _of_rows(
    open_plan: Callable[[], Plan], values: Operand, n_elements: int, columns: int
) -> NDArray[np.float64]:
    """Return the sum of squares of each row."""
    import numpy as np

    plan = open_plan()
    plan.add_job(n_elements, [Source.zero(), native(values)], [])
    (found,) = plan.gram(
        tasks=[GramTask(job=0, row_length=columns)],
        deltas=True,
        with_magnitudes=False,
        limits=limits_in_memory(None),
    )
    return np.frombuffer(found.table(), np.float64)


def _of_columns(
    open_plan: Callable[[], Plan], values: Operand, n_elements: int, columns: int
) -> NDArray[np.float64]:
    """Return the sum of squares of each column, added in the order of the rows."""
    import numpy as np

    sums = np.zeros(columns)
    for row in _rows(open_plan, values, n_elements, columns):
        sums += row * row
    return sums


def mean_row(
    open_plan: Callable[[], Plan], values: Operand, n_elements: int, columns: int
) -> array[float]:
    """Return the mean of the first rows of a matrix; zeros if there are none.

    The sum is float64, in the order of the rows; the mean is rounded to float32 once.

    Args:
        open_plan: Returns a plan with a base and without jobs, in which the files are open.
        values: The matrix.
        n_elements: The elements of the rows.
        columns: The elements of a row.

    Returns:
        One float32 value for each column.

    Raises:
        StorageError: A file cannot be read.
    """
    import numpy as np

    sums = np.zeros(columns)
    for row in _rows(open_plan, values, n_elements, columns):
        sums += row
    with np.errstate(all="ignore"):
        mean = (sums / max(n_elements // columns, 1)).astype(np.float32)
    return array("f", mean.tobytes())


def _rows(
    open_plan: Callable[[], Plan], values: Operand, n_elements: int, columns: int
) -> Iterator[NDArray[np.float64]]:
    """Yield the rows of a matrix, one after the other."""
    import numpy as np

    for read in float32_values(open_plan, values, n_elements, columns):
        with np.errstate(all="ignore"):
            yield from np.frombuffer(read, np.float32).reshape(-1, columns).astype(np.float64)


def float32_values(
    open_plan: Callable[[], Plan], values: Operand, n_elements: int, unit: int = 1
) -> Iterator[bytearray]:
    """Yield the bytes of the values of an operand, a bounded piece at a time.

    Args:
        open_plan: Returns a plan with a base and without jobs, in which the files are open.
        values: The operand.
        n_elements: The elements to read.
        unit: The elements of which each piece has a multiple, or the rest.

    Raises:
        StorageError: A file cannot be read.
    """
    unit = math.lcm(unit, grain_of(values))
    n_each = max(_ELEMENTS // unit, 1) * unit
    plan = open_plan()
    for job, first in enumerate(range(0, n_elements, n_each)):
        n = min(n_each, n_elements - first)
        plan.add_job(n, [Source.zero(), native(moved_operand(values, first))], [])
        read = bytearray(4 * n)
        address = ctypes.addressof(ctypes.c_char.from_buffer(read))
        read_delta(plan=plan, job=job, expert=0, out=address, limits=limits_in_memory(None))
        yield read


def _widened(change: Magnitudes) -> NDArray[np.float32]:
    """Return the magnitudes, as float32 reads them."""
    import numpy as np

    stored = np.frombuffer(b"".join(chunks(change.values)), np.uint8)
    n = change.values.n_elements
    wide = np.empty(n, np.float32)
    place = (-1, stored.ctypes.data, DTYPE_CODES[change.values.dtype])
    Source.plain(values=place).decode(n_elements=n, threads=1, out=wide.ctypes.data)
    return wide
