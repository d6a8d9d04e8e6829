"""Checks that the pieces of a change have the shapes and dtypes that its tensor needs."""

from __future__ import annotations

import math
from typing import Any

from ...checkpoint.changes import Added, Change, Hadamard, Kronecker, Magnitudes, Product, Rows
from ...checkpoint.tensors import TensorInfo
from ...spec.dtypes import DTYPE_CODES, FLOATS


def refuse_misfit(change: Change, n_elements: int) -> None:
    """Raise ValueError unless a change is one that a tensor of so many elements can have."""
    match change:
        case Product():
            rows, columns = _of_product(change)
            whole = len(change.left.shape) == 3
            _require(change.first_row in range(n_elements), "first row")
            end = (change.first_row + rows) * columns
            _require(end == n_elements if whole else end <= n_elements, "rows")
            _require(n_elements % columns == 0, "columns")
        case Hadamard(a, b, scale):
            _require(isinstance(a, Product) and isinstance(b, Product), "factors")
            refuse_misfit(a, n_elements)
            _require(_of_product(a) == _of_product(b) and a.first_row == b.first_row, "factors")
            _require_scale(scale)
        case Kronecker(left, right, scale):
            _require(math.prod(_of_factor(left) + _of_factor(right)) == n_elements, "factors")
            _require_scale(scale)
        case Added(values, scale):
            _require_floats(values)
            _require(values.n_elements == n_elements, "values")
            _require_scale(scale)
        case Magnitudes(values, columns, of_columns):
            _require_floats(values)
            _require(type(columns) is int and columns > 0 and n_elements % columns == 0, "columns")
            n = columns if of_columns else n_elements // columns
            _require(values.n_elements == n and type(of_columns) is bool, "values")
        case Rows(indices, values):
            _require_floats(values)
            _require(bool(values.shape) and values.n_elements > 0, "rows")
            n_rows, rest = divmod(n_elements, math.prod(values.shape[1:]))
            ascend = type(indices) is tuple and all(type(one) is int for one in indices)
            _require(rest == 0 and ascend and list(indices) == sorted({*indices}), "rows")
            _require(len(indices) == values.shape[0], "rows")
            _require(indices[0] >= 0 and indices[-1] < n_rows, "rows")


def _of_product(change: Product) -> tuple[int, int]:
    """Return rows, those of all matrices together, and columns of a product."""
    _require(isinstance(change, Product) and type(change.first_row) is int, "product")
    _require_scale(change.scale)
    for one in (change.left, change.right):
        _require_floats(one)
        _require(len(one.shape) in (2, 3) and one.n_elements > 0, "factors")
    *matrices, rows, rank = change.left.shape
    *others, also, columns = change.right.shape
    _require(matrices == others and rank == also, "factors")
    return math.prod(matrices) * rows, columns


def _of_factor(factor: TensorInfo | Product) -> tuple[int, int]:
    if isinstance(factor, Product):
        _require(factor.scale == 1 and factor.first_row == 0, "factors")
        _require(len(factor.left.shape) == 2, "factors")
        return _of_product(factor)
    _require_floats(factor)
    _require(bool(factor.shape) and factor.n_elements > 0, "factors")
    return factor.shape[0], math.prod(factor.shape[1:])


def _require_floats(value: Any) -> None:
    _require(
        isinstance(value, TensorInfo) and value.dtype in FLOATS and value.dtype in DTYPE_CODES,
        "pieces",
    )


def _require_scale(value: Any) -> None:
    _require(type(value) in (int, float) and abs(value) < 1e30, "scale")


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(f"found a change whose {what} do not fit the tensor")
