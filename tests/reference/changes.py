"""Changes of a weight's float32 values by adapters, one after the other.

Every product and every sum is rounded to float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .dtype import Array, Floats, ieee, widen
from .low_rank_product import product


@ieee
def products(left: Array, right: Array) -> Floats:
    """The product of two factors, or those of a stack one below the other: [rows, columns]."""
    if left.ndim == 2:
        return product(left, right)
    return np.concatenate([product(a, b) for a, b in zip(left, right, strict=True)])


@ieee
def add_product(
    x: Floats, left: Array, right: Array, scale: float = 1.0, first_row: int = 0
) -> Floats:
    """LoRA: x + scale * left @ right, from a row on."""
    out = x.copy()
    n_rows = left.size // left.shape[-1]
    out[first_row : first_row + n_rows] += widen(scale) * products(left, right)
    return out


@ieee
def add_hadamard(
    x: Floats, a: tuple[Array, Array], b: tuple[Array, Array], scale: float = 1.0
) -> Floats:
    """LoHa: x + scale * (a[0] @ a[1]) * (b[0] @ b[1]); -0 of a product counts as +0."""
    zero = np.float32(0)
    return x + widen(scale) * ((zero + products(*a)) * (zero + products(*b)))


@ieee
def add_kronecker(
    x: Floats,
    left: Array | tuple[Array, Array],
    right: Array | tuple[Array, Array],
    scale: float = 1.0,
) -> Floats:
    """LoKr: x + scale * kron(left, right); a pair stands for its product, whose -0 is +0."""
    a, b = (
        np.float32(0) + product(*one) if isinstance(one, tuple) else widen(one)
        for one in (left, right)
    )
    return x + widen(scale) * np.kron(a, b)


@ieee
def add(x: Floats, values: Array, scale: float = 1.0) -> Floats:
    """x + scale * values."""
    return x + widen(scale) * widen(values)


@ieee
def multiply_rows(x: Floats, factors: Array) -> Floats:
    """Each row times its factor."""
    return x * widen(factors)[:, None]


@ieee
def multiply_columns(x: Floats, factors: Array) -> Floats:
    """Each column times its factor."""
    return x * widen(factors)


@ieee
def norm_factors(x: Floats, magnitudes: Array, *, of_columns: bool = False) -> Floats:
    """DoRA: magnitudes over the norms of rows, or of columns; sums of squares in float64."""
    squares = x.astype(np.float64) ** 2
    return widen(magnitudes) / widen(np.sqrt(squares.sum(axis=0 if of_columns else 1)))


def replace_rows(x: Floats, indices: Sequence[int], values: Array) -> Floats:
    """Some rows replaced: trained tokens."""
    out = x.copy()
    out[list(indices)] = widen(values)
    return out


@ieee
def add_rows(x: Floats, indices: Sequence[int], values: Array) -> Floats:
    """Some rows plus others: the sum of a mean."""
    out = x.copy()
    out[list(indices)] += widen(values)
    return out


@ieee
def divide_rows(x: Floats, indices: Sequence[int], divisors: Array) -> Floats:
    """Some rows over their divisors: the count of a mean."""
    out = x.copy()
    out[list(indices)] /= widen(divisors)[:, None]
    return out
