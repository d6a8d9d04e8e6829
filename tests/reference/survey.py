"""The survey of inner products, to the bit: the sums of fixed stretches, added exactly."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import fsum, isfinite

import numpy as np
import numpy.typing as npt

from .dtype import Floats, ieee

STRETCH = 2048

Doubles = npt.NDArray[np.float64]


@ieee
def survey(rows: Floats, row_length: int) -> tuple[Doubles, Doubles]:
    """Inner products [n, N, N] and sums of magnitudes [n, N] of each of the n rows.

    `rows` [N, n * row_length] holds the N vectors. A stretch ends where a row does and at every
    2048th element; within one, element i is added to lane i % 8 in float64, and the lanes are added
    in order. The sums of a row's stretches are added without rounding, and rounded once.
    """
    wide = rows.astype(np.float64)
    n_vectors, n_elements = wide.shape
    n_rows = n_elements // row_length
    products = np.empty((n_rows, n_vectors, n_vectors))
    magnitudes = np.empty((n_rows, n_vectors))
    for row in range(n_rows):
        first = row * row_length
        for i in range(n_vectors):
            for j in range(n_vectors):
                products[row, i, j] = total(
                    lambda a, b, i=i, j=j: wide[i, a:b] * wide[j, a:b], first, row_length
                )
            magnitudes[row, i] = total(lambda a, b, i=i: abs(wide[i, a:b]), first, row_length)
    return products, magnitudes


def total(terms: Callable[[int, int], Doubles], first: int, n: int) -> float:
    """The sum of terms(a, b) over the stretches of n elements from `first` on."""
    cuts = [first, *range((first // STRETCH + 1) * STRETCH, first + n, STRETCH), first + n]
    parts = [lanes_sum(terms(a, b)) for a, b in pairwise(cuts)]
    return fsum(parts) if all(map(isfinite, parts)) else sum(parts)


def lanes_sum(terms: Doubles) -> float:
    """Eight sums of every eighth term, each in order, added in order."""
    padded = np.concatenate([terms, np.zeros(-terms.size % 8)]).reshape(-1, 8)
    lanes = np.add.accumulate(np.concatenate([np.zeros((1, 8)), padded]), axis=0)[-1]
    return float(np.add.accumulate(lanes)[-1])
