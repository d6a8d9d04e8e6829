"""Products of small factors on NumPy arrays: what LoRA adapters are to weights."""

from __future__ import annotations

import numpy as np

import tallies._core as native

from ..engine.limits import n_threads
from ..errors import InputError
from . import arguments
from .arguments import Array, place


def low_rank(base: Array, left: Array, right: Array, scale: float = 1.0) -> Array:
    """Add a scaled product of two small factors: base + scale * (left @ right).

    The products over the rank are rounded to float32 one by one and added in order; their sum is
    multiplied by the scale, then added to the base, and the result is rounded once. The product is
    never stored. All cores take part.

    Args:
        base: A matrix [rows, columns].
        left: The factor [rows, rank]: B of LoRA. Dtypes may differ.
        right: The factor [rank, columns]: A of LoRA.
        scale: A finite number, alpha / rank of LoRA.

    Returns:
        A new matrix of the shape and dtype of ``base``.

    Raises:
        InputError: Shapes do not fit, the rank is 0, or the scale is not finite.

    Hu et al., LoRA, 2021, arXiv 2106.09685.

    >>> low_rank(np.ones((2, 2), np.float32), np.float32([[1], [2]]), np.float32([[3, 4]]), 0.5)
    array([[2.5, 3. ],
           [4. , 5. ]], dtype=float32)
    """
    matrix = arguments.array("base", base)
    if matrix.ndim != 2:
        raise InputError(f"base: found shape {matrix.shape}, expected a matrix")
    rows, columns = matrix.shape
    first = arguments.array("left", left)
    if first.ndim != 2 or first.shape[0] != rows or first.shape[1] == 0:
        raise InputError(
            f"left: found shape {first.shape}, expected [{rows}, rank] for a base of {rows} rows"
        )
    rank = first.shape[1]
    second = arguments.array("right", right)
    if second.shape != (rank, columns):
        raise InputError(
            f"right: found shape {second.shape}, expected [rank, columns], {(rank, columns)}"
        )
    factor = arguments.number("scale", scale)
    out = np.empty_like(matrix)
    native.low_rank_sum(
        *place(matrix)[1:],
        *place(first)[1:],
        *place(second)[1:],
        rows,
        rank,
        columns,
        factor,
        out.ctypes.data,
        n_threads(None),
    )
    return out
