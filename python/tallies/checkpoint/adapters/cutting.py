"""Cut the rows out of a change that belong to one tensor of several."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NoReturn

from ...errors import InputError
from ...messages import show
from ..changes import Added, Change, Hadamard, Kronecker, Magnitudes, Product, Rows
from ..rows import first_rows, last_rows
from ..tensors import TensorInfo
from .adapter import Edit
from .fitting import WAY_OUT, matrix_of
from .targets import Spot

_IN_WORDS: Final[dict[type, str]] = {
    TensorInfo: "is a whole tensor (PEFT: modules_to_save)",
    Added: "is a difference of a whole tensor",
    Hadamard: "is a LoHa",
    Kronecker: "is a LoKr",
    Magnitudes: "is the magnitudes of a DoRA",
    Rows: "is rows of trained tokens",
}


def n_rows_of(change: Change | TensorInfo) -> int:
    """Return the rows that a change has, counted through the matrices of a stack."""
    match change:
        case TensorInfo() as whole:
            return whole.shape[0] if whole.shape else 1
        case Added(values):
            return values.shape[0] if values.shape else 1
        case Magnitudes(values):
            return values.n_elements
        case _:
            shape = matrix_of(change) or (0, 0)
            return shape[0] if len(shape) == 2 else shape[0] * shape[1]


def is_part(spot: Spot, tensor: TensorInfo) -> bool:
    """Tell if a spot is only some of a tensor's rows."""
    if spot.n_rows is None:
        return False
    return len(tensor.shape) > 2 or (spot.first_row, spot.n_rows) != (0, tensor.shape[0])


def cut(edit: Edit, spot: Spot, tensor: TensorInfo) -> Change | TensorInfo:
    """Return the change that an edit makes to the rows of a spot.

    Args:
        edit: The edit.
        spot: The rows.
        tensor: The tensor of the spot.

    Raises:
        InputError: The change has fewer rows, or is of a kind that is not made to some rows.
    """
    change = edit.change
    if spot.n_rows is None:
        return change
    end = spot.from_row + spot.n_rows
    n_rows = n_rows_of(change)
    part = is_part(spot, tensor)
    if spot.part is not None and (why := spot.part.objection(n_rows, {})):
        refuse_rows(edit, tensor, why)
    if end > n_rows or (part and n_rows != spot.n_rows) or spot.first_row < 0:
        refuse_rows(edit, tensor, f"has {n_rows} rows, expected {end}")
    if isinstance(change, Product):
        left, right = _factors(edit, tensor, change, spot.from_row, spot.n_rows)
        return replace(change, left=left, right=right, first_row=spot.first_row)
    if part:
        refuse_rows(edit, tensor, f"{_IN_WORDS[type(change)]}, expected a product of two factors")
    begin, count = spot.from_row, spot.n_rows
    match change:
        case TensorInfo() as whole:
            return _rows(whole, begin, count)
        case Added(values):
            return replace(change, values=_rows(values, begin, count))
        case Magnitudes(values, _, False):
            return replace(change, values=_rows(values, begin, count))
        case Hadamard(a, b):
            a, b = (replace(one, left=_rows(one.left, begin, count)) for one in (a, b))
            return replace(change, a=a, b=b)
        case Kronecker():
            blocks = _blocks(edit, tensor, change, begin, count)
            return replace(change, left=blocks)
        case _:
            refuse_rows(edit, tensor, f"{_IN_WORDS[type(change)]}, expected a change by rows")


def _blocks(
    edit: Edit, tensor: TensorInfo, change: Kronecker, begin: int, count: int
) -> TensorInfo | Product:
    """Return the rows of a Kronecker product's left factor, each of which makes a block of rows."""
    left, right = change.left, change.right
    height = (right.left if isinstance(right, Product) else right).shape[0]
    if begin % height or count % height:
        refuse_rows(edit, tensor, f"has blocks of {height} rows, of which a part is of this tensor")
    first, n = begin // height, count // height
    if isinstance(left, Product):
        return replace(left, left=_rows(left.left, first, n))
    return _rows(left, first, n)


def _factors(
    edit: Edit, tensor: TensorInfo, change: Product, begin: int, count: int
) -> tuple[TensorInfo, TensorInfo]:
    """Return the factors of some rows of a product, which lie in one matrix of a stack."""
    left, right = change.left, change.right
    if len(left.shape) == 2:
        return _rows(left, begin, count), right
    number, row = divmod(begin, left.shape[1])
    if row + count > left.shape[1]:
        refuse_rows(edit, tensor, "has matrices of other sizes")
    return _rows(_matrix(left, number), row, count), _matrix(right, number)


def _matrix(stack: TensorInfo, number: int) -> TensorInfo:
    """Return one matrix of a stack."""
    one = _rows(stack, number, 1)
    strides = None if one.strides is None else one.strides[1:]
    return replace(one, shape=one.shape[1:], strides=strides)


def _rows(tensor: TensorInfo, begin: int, count: int) -> TensorInfo:
    """Return some entries of a tensor's first dimension, as a view."""
    return first_rows(last_rows(tensor, begin), count)


def refuse_rows(edit: Edit, tensor: TensorInfo, found: str) -> NoReturn:
    """Raise ``InputError`` for a change that does not fit the rows of a tensor.

    Args:
        edit: The edit.
        tensor: The tensor that has the rows.
        found: Verb and object of the message: what the change has, and what is expected.
    """
    told = edit.told_by
    raise InputError(
        f"{told.path}: tensor {show(told.name)} changes {show(edit.name)}, which lies in rows of "
        f"{show(tensor.name)} in {tensor.path}; the change {found}; {WAY_OUT}"
    )
