"""The changes that adapters make to a tensor of float32 values, each as its format says it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .dtype import Floats, widen

Change = Callable[[Floats], Floats]
"""From the float32 values of a tensor to those that a change makes of them."""


def product(left: Floats, right: Floats) -> Floats:
    """left @ right in float32, summed in the order of the rank index; stacks of matrices too."""
    a, b = widen(left), widen(right)
    total = a[..., :, :1] * b[..., :1, :]
    for k in range(1, a.shape[-1]):
        total = total + a[..., :, k : k + 1] * b[..., k : k + 1, :]
    return total


def kronecker(left: Floats, right: Floats) -> Floats:
    """Every element of ``left`` times the whole of ``right``: [a * c, b * d]."""
    a, b = widen(left), widen(right)
    rows, columns = a.shape[0] * b.shape[0], a.shape[1] * b.shape[1]
    return (a[:, None, :, None] * b[None, :, None, :]).reshape(rows, columns)


def added(values: Floats, scale: float = 1.0) -> Change:
    """w + scale * values, one multiplication and one addition in float32."""
    factor = np.float32(scale)
    return lambda w: w + (factor * widen(values)).reshape(w.shape)


def norms(w: Floats, axis: int) -> Floats:
    """The L2 norm of each row of a matrix (axis 1) or column (axis 0), summed in float64."""
    squares = np.square(w.astype(np.float64))
    return widen(np.sqrt(squares.sum(axis, keepdims=True)))


def magnitudes(values: Floats, *, of_columns: bool = False) -> Change:
    """Give each row of the matrix the norm that ``values`` say, or each column."""

    def change(w: Floats) -> Floats:
        matrix = w.reshape(len(w), -1)
        axis = 0 if of_columns else 1
        wanted = widen(values).reshape((1, -1) if of_columns else (-1, 1))
        return (matrix * (wanted / norms(matrix, axis))).reshape(w.shape)

    return change


def rows(indices: Sequence[int], values: Floats) -> Change:
    """Put ``values`` in the place of some rows."""

    def change(w: Floats) -> Floats:
        out = w.copy()
        out[list(indices)] = widen(values)
        return out

    return change
