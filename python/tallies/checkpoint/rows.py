"""Rows of stored tensors, as tensors of their own."""

from __future__ import annotations

import math
from dataclasses import replace

from ..spec.dtypes import DTYPES
from .tensors import TensorInfo


def first_rows(tensor: TensorInfo, n_rows: int) -> TensorInfo:
    """Return the first rows of a tensor that has no scale, all columns of them."""
    shape = (n_rows, *tensor.shape[1:])
    return replace(tensor, shape=shape, n_bytes=math.prod(shape) * DTYPES[tensor.dtype])


def last_rows(tensor: TensorInfo, first: int) -> TensorInfo:
    """Return the rows from ``first`` on of a tensor that has no scale."""
    step = math.prod(tensor.shape[1:]) if tensor.strides is None else tensor.strides[0]
    below = first_rows(tensor, tensor.shape[0] - first)
    return replace(below, offset=tensor.offset + first * step * DTYPES[tensor.dtype])
