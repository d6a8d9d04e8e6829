"""The values of tensors that adapters change, computed in NumPy from what was placed."""

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
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.tensors import TensorInfo
from tallies.engine.decoding import decoded_chunks
from tests.reference import adapters as reference
from tests.reference.dtype import narrow, widen
from tests.support.checkpoints import DTYPES, Array, Model


def values(checkpoint: Checkpoint) -> Model:
    """All tensors of a model with the changes made, in their own dtypes."""
    return {name: value(tensor) for name, tensor in checkpoint.tensors.items()}


def decoded(checkpoint: Checkpoint) -> Model:
    """All tensors of a model as the engine reads them, in their own dtypes."""
    return {
        name: np.frombuffer(b"".join(decoded_chunks(one)), DTYPES[one.dtype]).reshape(one.shape)
        if one.is_decoded
        else stored(one)
        for name, one in checkpoint.tensors.items()
    }


def value(tensor: TensorInfo) -> Array:
    """A tensor with its changes made, rounded once."""
    array = stored(tensor)
    if not tensor.changes:
        return array
    made = widen(array)
    for change in tensor.changes:
        made = _made(change, made)
    return narrow(made, array.dtype)


def stored(tensor: TensorInfo) -> Array:
    """The elements of a tensor, or of a view, as the file has them."""
    dtype = DTYPES[tensor.dtype]
    data = np.fromfile(tensor.path, np.uint8)[tensor.offset :]
    if tensor.strides is None:
        return data[: tensor.n_bytes].view(dtype).reshape(tensor.shape)
    flat = data[: len(data) // dtype.itemsize * dtype.itemsize].view(dtype)
    steps = [step * dtype.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, steps).copy()


def _made(change: Change, w: Array) -> Array:
    match change:
        case Product(left, right, scale, first_row):
            product = reference.product(stored(left), stored(right))
            if product.ndim == 3:
                return reference.added(product, scale)(w)
            matrix = w.reshape(-1, product.shape[1]).copy()
            rows = slice(first_row, first_row + len(product))
            matrix[rows] = reference.added(product, scale)(matrix[rows])
            return matrix.reshape(w.shape)
        case Hadamard(a, b, scale):
            return reference.added(_matrix(a) * _matrix(b), scale)(w)
        case Kronecker(left, right, scale):
            return reference.added(reference.kronecker(_matrix(left), _matrix(right)), scale)(w)
        case Added(values, scale):
            return reference.added(stored(values), scale)(w)
        case Magnitudes(values, columns, of_columns):
            matrix = w.reshape(-1, columns)
            return reference.magnitudes(stored(values), of_columns=of_columns)(matrix).reshape(
                w.shape
            )
        case Rows(indices, values):
            return reference.rows(indices, stored(values))(w)


def _matrix(factor: TensorInfo | Product) -> Array:
    if isinstance(factor, Product):
        return reference.product(stored(factor.left), stored(factor.right))
    return widen(stored(factor))
