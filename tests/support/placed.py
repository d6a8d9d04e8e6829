"""The values of tensors as they lie in files, with the changes that adapters make to them."""

from __future__ import annotations

import numpy as np

from tallies.checkpoint.changes import (
    Added,
    Change,
    Hadamard,
    Kronecker,
    Magnitudes,
    Product,
    Rows,
)
from tallies.checkpoint.strided import row_major, span
from tallies.checkpoint.tensors import TensorInfo
from tests.reference import adapters as reference
from tests.reference.dtype import Floats, widen
from tests.support.checkpoints import DTYPES


def stored(tensor: TensorInfo) -> Floats:
    """Return the elements of a tensor's file in float32, without the tensor's changes."""
    dtype = np.dtype(DTYPES[tensor.dtype])
    strides = tensor.strides or row_major(tensor.shape)
    with open(tensor.path, "rb") as file:
        file.seek(tensor.offset)
        text = file.read(span(tensor.shape, strides) * dtype.itemsize)
    steps = [stride * dtype.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(np.frombuffer(text, dtype), tensor.shape, steps)
    return widen(view.copy())


def values(tensor: TensorInfo) -> Floats:
    """Return the float32 values of a tensor with its changes made."""
    found = stored(tensor)
    for change in tensor.changes:
        found = _made(change, found)
    return found


def _made(change: Change, w: Floats) -> Floats:
    match change:
        case Product(_, _, scale, first_row):
            total = _product(change)
            if total.size == w.size:
                return reference.added(total, scale)(w)
            out = w.copy()
            rows = slice(first_row, first_row + len(total))
            out[rows] = reference.added(total, scale)(w[rows])
            return out
        case Hadamard(a, b, scale):
            return reference.added(_product(a) * _product(b), scale)(w)
        case Kronecker(left, right, scale):
            factors = [
                _product(one) if isinstance(one, Product) else stored(one) for one in (left, right)
            ]
            matrices = [one.reshape(len(one), -1) for one in factors]
            return reference.added(reference.kronecker(*matrices), scale)(w)
        case Added(given, scale):
            return reference.added(stored(given), scale)(w)
        case Magnitudes(given, columns, of_columns):
            matrix = w.reshape(-1, columns)
            return reference.magnitudes(stored(given), of_columns=of_columns)(matrix).reshape(
                w.shape
            )
        case Rows(indices, given):
            return reference.rows(indices, stored(given))(w)


def _product(product: Product) -> Floats:
    return reference.product(stored(product.left), stored(product.right))
