"""The factors of adapters as matrices: views of stored tensors, without a copy.

A stored tensor is [rows, columns] or, of a convolution, [rows, channels, height, width].
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final, NoReturn

from ...errors import InputError
from ...messages import either, show
from ..changes import Product
from ..strided import row_major
from ..tensors import TensorInfo

FLOATS: Final = ("F32", "BF16", "F16")
"""The dtypes of factors."""

_AGAIN: Final = "save the adapter again, or merge it into its model (PEFT: merge_and_unload)"


def check_dtype(tensor: TensorInfo) -> None:
    """Raise ``InputError`` for a tensor of an adapter in another dtype than factors have."""
    if tensor.dtype not in FLOATS:
        raise InputError(
            f"{tensor.path}: tensor {show(tensor.name)} has dtype {tensor.dtype}, expected "
            f"{either(FLOATS)} for a piece of an adapter; save the adapter again in F32, or merge "
            "it into its model first (PEFT: merge_and_unload)"
        )


def refuse(tensor: TensorInfo, found: str) -> NoReturn:
    """Raise ``InputError`` for a tensor of an adapter, by words that follow its name."""
    raise InputError(f"{tensor.path}: tensor {show(tensor.name)} {found}; {_AGAIN}")


def reshaped(tensor: TensorInfo, shape: tuple[int, ...]) -> TensorInfo:
    """Return a tensor with the same elements in the same order, seen in another shape.

    Args:
        tensor: A stored tensor, or a view of one.
        shape: The new shape, of as many elements.

    Raises:
        InputError: The elements of a view lie in an order that the shape cannot state.
    """
    if tensor.shape == shape:
        return tensor
    assert math.prod(shape) == tensor.n_elements, (tensor.name, shape)
    if tensor.strides is None:
        return replace(tensor, shape=shape)
    strides = _strides(tensor.shape, tensor.strides, shape)
    if strides is None:
        raise InputError(
            f"{tensor.path}: the elements of tensor {show(tensor.name)} do not lie in order; save "
            "the adapter again with contiguous tensors (safetensors; or PEFT: merge_and_unload)"
        )
    return replace(tensor, shape=shape, strides=strides)


def as_matrix(tensor: TensorInfo) -> TensorInfo:
    """Return a tensor as a matrix of its first dimension by all others together."""
    rows = tensor.shape[0]
    return reshaped(tensor, (rows, tensor.n_elements // rows if rows else 0))


def transposed(tensor: TensorInfo) -> TensorInfo:
    """Return a view of a matrix, or of each in a stack, with rows and columns swapped."""
    strides = tensor.strides or row_major(tensor.shape)
    *stack, rows, columns = tensor.shape
    *steps, row, column = strides
    return replace(tensor, shape=(*stack, columns, rows), strides=(*steps, column, row))


def turned(product: Product) -> Product:
    """Return the product whose matrix is the transposed one: right' @ left'."""
    return replace(product, left=transposed(product.right), right=transposed(product.left))


def _strides(
    shape: tuple[int, ...], strides: tuple[int, ...], wanted: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Return the strides of a view in another shape; None where it would need a copy."""
    if 0 in shape:
        return row_major(wanted)
    # Runs of dimensions that lie end to end, from the last on: their sizes and inner strides.
    runs: list[list[int]] = []
    for size, stride in reversed([*zip(shape, strides, strict=True)]):
        if size == 1:
            continue
        if runs and stride == runs[-1][0] * runs[-1][1]:
            runs[-1][0] *= size
        else:
            runs.append([size, stride])
    found: list[int] = []
    at, done = 0, 1
    for size in reversed(wanted):
        if size == 1:
            found.append(1)
            continue
        if at < len(runs) and done == runs[at][0]:
            at, done = at + 1, 1
        if at == len(runs) or runs[at][0] % (done * size):
            return None
        found.append(runs[at][1] * done)
        done *= size
    return tuple(reversed(found))
