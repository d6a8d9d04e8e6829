"""States the changes of adapters as native passes take them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING

from .._core import Change
from ..checkpoint import changes as stated
from ..checkpoint.tensors import TensorInfo
from ..spec.dtypes import DTYPE_CODES

if TYPE_CHECKING:
    from .files import Place


def native_change(change: stated.Change, place: Callable[[TensorInfo], Place]) -> Change:
    """Return a change that depends on no values but its own as native passes take it.

    Args:
        change: Any but ``Magnitudes``.
        place: Returns the place of a stored tensor, whose elements lie there in order.
    """
    match change:
        case stated.Product():
            return _product(change, place)
        case stated.Hadamard(a, b, scale):
            return Change.hadamard(a=_product(a, place), b=_product(b, place), scale=scale)
        case stated.Kronecker(left, right, scale):
            return Change.kronecker(
                left=_factor(left, place),
                right=_factor(right, place),
                left_shape=_shape(left),
                right_shape=_shape(right),
                scale=scale,
            )
        case stated.Added(values, scale):
            return Change.added(values=place(values), scale=scale)
        case stated.Rows(indices, values):
            return Change.rows(indices=indices, values=place(values), columns=_per_row(values))
        case stated.Magnitudes():
            raise AssertionError("factors follow from the norms of other values")


def kept_bytes(tensor: TensorInfo) -> int:
    """Return the bytes of the factors of a tensor that each thread keeps in memory as a whole."""
    return sum(map(_kept, tensor.changes))


def _kept(change: stated.Change) -> int:
    match change:
        case stated.Product(_, right):
            return right.n_bytes // math.prod(right.shape[:-2])
        case stated.Hadamard(a, b):
            return _kept(a) + _kept(b)
        case stated.Kronecker():
            return sum(one.n_bytes for one in stated.pieces(change))
        case stated.Magnitudes(_, columns, of_columns):
            return 4 * columns if of_columns else 0
    return 0


def factors_change(factors: array[float], change: stated.Magnitudes) -> Change:
    """Return the product of rows or columns with float32 factors, which must outlive its use."""
    place = (-1, factors.buffer_info()[0], DTYPE_CODES["F32"])
    if change.of_columns:
        return Change.column_factors(factors=place, columns=change.columns)
    return Change.row_factors(factors=place, columns=change.columns)


def _product(change: stated.Product, place: Callable[[TensorInfo], Place]) -> Change:
    *stacked, rows, rank = change.left.shape
    return Change.product(
        left=place(change.left),
        right=place(change.right),
        rank=rank,
        columns=change.right.shape[-1],
        scale=change.scale,
        matrix_rows=rows if stacked else None,
        first_row=change.first_row,
        n_rows=math.prod(stacked) * rows,
    )


def _factor(
    factor: TensorInfo | stated.Product, place: Callable[[TensorInfo], Place]
) -> Place | Change:
    return _product(factor, place) if isinstance(factor, stated.Product) else place(factor)


def _shape(factor: TensorInfo | stated.Product) -> tuple[int, int]:
    if isinstance(factor, stated.Product):
        return (factor.left.shape[0], _per_row(factor.right))
    return (factor.shape[0], _per_row(factor))


def _per_row(tensor: TensorInfo) -> int:
    return math.prod(tensor.shape[1:])
