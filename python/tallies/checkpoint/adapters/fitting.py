"""Check that a change fits the tensor that it is made to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from ...errors import InputError
from ...messages import show
from ...spec.dtypes import FLOATS
from ..changes import Added, Change, Hadamard, Kronecker, Magnitudes, Product, Rows, pieces
from ..tensors import TensorInfo
from ..tied import is_embedding, is_head
from .adapter import Edit

WAY_OUT: Final = (
    "give the adapter the model that it was trained on, or merge it into that model first (PEFT: "
    "merge_and_unload, then save_pretrained; diffusers: fuse_lora)"
)


def matrix_of(change: Change) -> tuple[int, ...] | None:
    """Return the rows and columns that a change adds, with a stack's matrices before them.

    None for changes of other shapes.

    Raises:
        InputError: The ranks of two factors differ.
    """
    match change:
        case Product(left, right):
            if (
                len(left.shape) != len(right.shape)
                or len(left.shape) not in (2, 3)
                or left.shape[-1] != right.shape[-2]
                or left.shape[:-2] != right.shape[:-2]
            ):
                raise InputError(
                    f"{left.path}: tensors {show(left.name)} of shape {list(left.shape)} and "
                    f"{show(right.name)} of shape {list(right.shape)} have no product: the ranks "
                    f"{left.shape[-1] if left.shape else 1} and "
                    f"{right.shape[-2] if len(right.shape) > 1 else 1} must be equal; download the "
                    "adapter again, or merge it where it loads (PEFT: merge_and_unload)"
                )
            return (*left.shape[:-1], right.shape[-1])
        case Hadamard(a, b):
            one, other = matrix_of(a), matrix_of(b)
            if one != other:
                raise InputError(
                    f"{a.left.path}: tensors {show(a.left.name)} and {show(b.left.name)} belong to "
                    f"products of shapes {list(one or ())} and {list(other or ())}, expected equal "
                    "ones; download the adapter again, or merge it where it loads (PEFT: "
                    "merge_and_unload)"
                )
            return one
        case Kronecker(left, right):
            sizes = [
                (matrix_of(one) or ()) if isinstance(one, Product) else one.shape
                for one in (left, right)
            ]
            if all(len(size) >= 2 for size in sizes):
                return (
                    math.prod(size[0] for size in sizes),
                    math.prod(math.prod(size[1:]) for size in sizes),
                )
            return None
        case _:
            return None


def check_fits(
    edit: Edit, change: Change | TensorInfo, tensor: TensorInfo, *, is_part: bool = False
) -> None:
    """Raise ``InputError`` if a change does not fit a tensor of the model.

    Args:
        edit: The edit that the change is of, for messages.
        change: The change as it is made to this tensor.
        tensor: The tensor.
        is_part: The change is one of some rows, from the product's first row on.
    """
    if isinstance(change, TensorInfo):
        is_resized = change.shape[1:] == tensor.shape[1:] and _has_rows_of_words(tensor)
        _expect(edit, is_resized or change.shape == tensor.shape, change.shape, tensor)
        return
    if tensor.dtype not in FLOATS:
        raise InputError(
            f"{tensor.path}: tensor {show(tensor.name)} is {tensor.dtype}, expected a "
            f"floating-point tensor, since {show(edit.told_by.name)} of the adapter "
            f"{edit.told_by.path} changes it; {WAY_OUT}"
        )
    for piece in pieces(change):
        if piece.dtype not in FLOATS:
            raise InputError(
                f"{piece.path}: tensor {show(piece.name)} is {piece.dtype}, expected a "
                "floating-point tensor; convert the adapter, or merge it where it loads (PEFT: "
                "merge_and_unload)"
            )
    columns = math.prod(tensor.shape[1:])
    match change:
        case Added(values):
            _expect(edit, values.shape == tensor.shape, values.shape, tensor)
        case Magnitudes(values, width, of_columns):
            n_rows = tensor.n_elements // max(width, 1)
            expected = width if of_columns else n_rows
            fits = values.n_elements == expected and n_rows * width == tensor.n_elements
            _expect(edit, fits, values.shape, tensor)
        case Rows(indices, values):
            _check_tokens(edit, indices, tensor)
            _expect(edit, values.shape == (len(indices), columns), values.shape, tensor)
        case _:
            _check_matrix(edit, change, tensor, is_part=is_part)


def _check_tokens(edit: Edit, tokens: Sequence[int], tensor: TensorInfo) -> None:
    rows = tensor.shape[0] if tensor.shape else 1
    beyond = next((one for one in tokens if not 0 <= one < rows), None)
    if beyond is not None:
        told = edit.told_by
        raise InputError(
            f"{told.path}: tensor {show(told.name)} has values of the token {beyond}, but "
            f"{show(tensor.name)} in {tensor.path} has {rows} rows, one for each token; {WAY_OUT}"
        )


def _has_rows_of_words(tensor: TensorInfo) -> bool:
    """Tell if a tensor has a row for each word, so that one of a larger vocabulary replaces it."""
    return len(tensor.shape) == 2 and (is_head(tensor.name) or is_embedding(tensor.name))


def _check_matrix(edit: Edit, change: Change, tensor: TensorInfo, *, is_part: bool) -> None:
    shape = matrix_of(change)
    fits = False
    if shape is not None and len(tensor.shape) >= 2:
        if len(shape) == 3:
            fits = shape == tensor.shape
        elif is_part and isinstance(change, Product):
            end = change.first_row + shape[0]
            fits = shape[1] == tensor.shape[-1] and end <= math.prod(tensor.shape[:-1])
        else:
            fits = shape == (tensor.shape[0], math.prod(tensor.shape[1:]))
    _expect(edit, fits, shape, tensor)


def _expect(edit: Edit, fits: bool, shape: tuple[int, ...] | None, tensor: TensorInfo) -> None:
    if fits:
        return
    told = edit.told_by
    raise InputError(
        f"{told.path}: tensor {show(told.name)} changes a tensor of shape {list(shape or ())}, but "
        f"{show(tensor.name)} in {tensor.path} has shape {list(tensor.shape)}; {WAY_OUT}"
    )
