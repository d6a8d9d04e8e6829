"""Task vectors as stores encode them, their sum with factors, and the gradient of the factors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .dtype import Array, Floats, Packed, ieee, narrow, widen
from .masks import unpack_bits

CHUNK = 2048
CELL = 32 * CHUNK


@ieee
def masked(shared: Array, packed: Packed, scale: float) -> Floats:
    """scale * (mask ? shared : +0), the product rounded."""
    kept = np.where(unpack_bits(packed, shared.size), widen(shared), np.float32(0))
    return np.asarray(np.float32(scale) * kept, np.float32)


def signs(packed: Packed, magnitude: float, n: int) -> Floats:
    """mask ? magnitude : -magnitude."""
    size = np.float32(magnitude)
    return np.where(unpack_bits(packed, n), size, -size)


@ieee
def sparse(packed: Packed, values: Array, n: int, scales: Floats | None = None) -> Floats:
    """mask ? the next value : +0; with scales, one for each of as many rows, the value times it."""
    x = np.zeros(n, np.float32)
    at = np.flatnonzero(unpack_bits(packed, n))
    x[at] = widen(values)
    if scales is not None:
        x[at] *= scales[at // max(n // max(scales.size, 1), 1)]
    return x


def blocks(n: int, n_blocks: int) -> list[slice]:
    """Block k of n elements is from floor(k n / K) to floor((k + 1) n / K)."""
    ends = [k * n // n_blocks for k in range(n_blocks + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


@ieee
def weighted_sum(base: Array, deltas: Sequence[Floats], factors: Floats) -> Array:
    """base + sum_t c_t * delta_t, factors [T, K] for blocks; products and sums rounded in order."""
    total = widen(base)
    for delta, row in zip(deltas, factors, strict=True):
        for block, factor in zip(blocks(base.size, len(row)), row, strict=True):
            total[block] = total[block] + factor * delta[block]
    return narrow(total, base.dtype)


@ieee
def block_dots(grad: Array, deltas: Sequence[Floats], n_blocks: int) -> npt.NDArray[np.float64]:
    """Sum of grad * delta_t over each block, float64 [T, K]; every NaN is the quiet positive one.

    Products are exact. Over what a block shares with 2048 elements there are eight sums, of every
    eighth element, folded into one. Those are added from the first to the last within 65536
    elements, and then over them.
    """
    g = widen(grad).astype(np.float64)
    dots = np.zeros((len(deltas), n_blocks))
    for t, delta in enumerate(deltas):
        for k, block in enumerate(blocks(grad.size, n_blocks)):
            for cell in _stretches(block, CELL):
                part = 0.0
                for stretch in _stretches(cell, CHUNK):
                    part += _folded(g[stretch] * delta[stretch].astype(np.float64))
                dots[t, k] += part
    dots[np.isnan(dots)] = np.nan
    return dots


def _stretches(whole: slice, length: int) -> Iterator[slice]:
    """The parts that lie between multiples of a length."""
    start: int = whole.start
    while start < whole.stop:
        stop = min(start // length * length + length, whole.stop)
        yield slice(start, stop)
        start = stop


def _folded(products: npt.NDArray[np.float64]) -> float:
    rows = np.zeros((1 + (products.size + 7) // 8, 8))
    rows[1:].reshape(-1)[: products.size] = products
    a, b, c, d, e, f, g, h = np.cumsum(rows, axis=0)[-1]
    return float(((a + e) + (c + g)) + ((b + f) + (d + h)))
