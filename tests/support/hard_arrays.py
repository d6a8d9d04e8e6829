"""Large arrays that are hard to select from, each in its own way, and ranks to ask for."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.reference import select

N = 150_001
"""More than the 65536 elements up to which an array is selected from as a whole."""

KINDS = (
    "smooth",
    "all equal",
    "all zero",
    "all nan",
    "few values",
    "mostly zero",
    "two values",
    "nan and infinity among",
    "ascending",
    "descending",
    "outliers",
    "subnormals",
    "any bits",
    "blocks",
    "teeth",
)


@cache
def array(kind: str) -> npt.NDArray[np.float32]:
    """An array of N elements that is hard to select from in its own way."""
    return np.asarray(_values(kind), np.float32)


def _values(kind: str) -> Any:
    rng = np.random.default_rng(len(kind))
    smooth = rng.standard_normal(N).astype(np.float32)
    index = np.arange(N)
    signs = rng.choice(np.array([-1, 1], np.float32), N)
    if kind == "all equal":
        return np.full(N, -0.37, np.float32)
    if kind == "all zero":
        return np.zeros(N, np.float32) * signs
    if kind == "all nan":
        return (0x7F800001 + index * 97 % 0x7FFFFE).astype(np.uint32).view(np.float32)
    if kind == "few values":
        return rng.choice(np.array([0, 1, 1.5, -1.5, 2, -7], np.float32), N)
    if kind == "mostly zero":
        return np.where(rng.random(N) < 0.97, np.float32(0), smooth)
    if kind == "two values":
        # Neighbouring patterns: no room for a bracket between them.
        return np.where(
            rng.random(N) < 0.5, np.float32(1), np.nextafter(np.float32(1), np.float32(2))
        )
    if kind == "nan and infinity among":
        smooth[rng.integers(0, N, 4000)] = np.nan
        smooth[rng.integers(0, N, 4000)] = -np.inf
        return smooth
    if kind == "ascending":
        return np.sort(np.abs(smooth)) * signs
    if kind == "descending":
        return np.sort(np.abs(smooth))[::-1] * signs
    if kind == "outliers":
        smooth[rng.integers(0, N, 40)] *= np.float32(1e30)
        return smooth
    if kind == "subnormals":
        return (rng.integers(0, 3000, N).astype(np.uint32)).view(np.float32) * signs
    if kind == "any bits":
        return rng.integers(0, 2**32, N, np.uint32).view(np.float32)
    if kind == "blocks":
        # Sorted in each sixteenth: short runs at equal distances see a sliver of the values.
        return ((index % (N // 16)) / 1000).astype(np.float32) * signs
    if kind == "teeth":
        # One value in those runs and others everywhere else.
        at = index % (N // 16)
        return np.where((at >= N // 32) & (at < N // 32 + 1024), np.float32(3), smooth)
    return smooth


@cache
def descending(kind: str, dtype: str) -> npt.NDArray[np.uint32]:
    """Patterns of all magnitudes, the largest first."""
    return np.sort(select.magnitude_bits(array(kind).astype(dtype)))[::-1]


def ranks(patterns: npt.NDArray[np.uint32]) -> list[int]:
    """Ranks at both ends, in the middle, and on either side of where equal magnitudes end."""
    n = patterns.size
    changes = np.flatnonzero(np.diff(patterns.astype(np.int64))) + 1
    edges = [int(changes[i]) for i in (0, changes.size // 2, -1)] if changes.size else []
    chosen = [1, 2, n // 1000, n // 5, n // 2, n - 1, n, *edges, *(edge + 1 for edge in edges)]
    return sorted(set(chosen))
