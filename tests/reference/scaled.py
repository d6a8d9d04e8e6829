"""Values with scales: float8 checkpoints, whose tensors are blocks that share a scale each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .dtype import widen


def scaled(
    values: npt.NDArray[Any], scales: npt.NDArray[Any], block_rows: int, block_columns: int
) -> npt.NDArray[np.float32]:
    """Return `value * scale`, one float32 product for each element of a matrix.

    Args:
        values: A matrix of any floating-point dtype.
        scales: `[ceil(rows / block_rows), ceil(columns / block_columns)]`, float32 or narrower.
        block_rows: Rows that share a scale; all of them for a scale of the tensor.
        block_columns: Columns that share a scale.
    """
    rows, columns = values.shape
    each = np.repeat(np.repeat(widen(scales), block_rows, axis=0), block_columns, axis=1)
    with np.errstate(all="ignore"):
        return widen(values) * each[:rows, :columns]
