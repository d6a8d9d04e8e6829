"""The differences of two tensors, element by element."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .dtype import Array, Floats, ieee, widen
from .survey import total


class Contrast(NamedTuple):
    """Two arrays of float32 side by side."""

    n_nonfinite: int
    n_flips: int
    largest: np.float32
    delta: Floats


class Differences(NamedTuple):
    """Counts, the largest difference, and the sums of a * a, a * b, b * b and (b - a)^2."""

    n_different: int
    n_nonfinite: int
    n_flips: int
    largest: float
    sums: tuple[float, float, float, float]


@ieee
def contrast(a: Floats, b: Floats) -> Contrast:
    """Elements that are not finite on both sides have the difference 0 and are counted apart."""
    finite = np.isfinite(a) & np.isfinite(b)
    delta = np.where(finite, b - a, np.float32(0))
    flips = finite & (np.sign(a) * np.sign(b) < 0)
    largest = np.max(np.abs(delta), initial=np.float32(0))
    return Contrast(int(np.sum(~finite)), int(np.sum(flips)), largest, delta)


@ieee
def differences(a: Array, b: Array) -> Differences:
    """Floats are compared in float32, whole numbers in float64; bits as they are stored.

    Floats of two types differ where their float32 values have other bits.
    """
    if a.dtype.kind in "iub":
        x, y = a.astype(np.float64), b.astype(np.float64)
        n_nonfinite, n_flips = 0, int(np.sum(np.sign(x) * np.sign(y) < 0))
        delta = y - x
        largest = float(np.max(np.abs(delta), initial=0.0))
    else:
        wide_a, wide_b = widen(a), widen(b)
        n_nonfinite, n_flips, most, narrow_delta = contrast(wide_a, wide_b)
        finite = np.isfinite(wide_a) & np.isfinite(wide_b)
        x, y = (np.where(finite, one, 0).astype(np.float64) for one in (wide_a, wide_b))
        delta, largest = narrow_delta.astype(np.float64), float(most)
    sums = [
        total(lambda low, high, u=u, v=v: u[low:high] * v[low:high], 0, a.size)
        for u, v in ((x, x), (x, y), (y, y), (delta, delta))
    ]
    n_different = int(np.sum(bits(a) != bits(b))) if a.dtype == b.dtype else _by_values(a, b)
    return Differences(n_different, n_nonfinite, n_flips, largest, (*sums,))


def bits(a: Array) -> npt.NDArray[np.unsignedinteger[npt.NBitBase]]:
    """The stored bits of each element as a whole number."""
    return np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")


def _by_values(a: Array, b: Array) -> int:
    return int(np.sum(bits(widen(a)) != bits(widen(b))))
