"""The report on one matrix that an adapter changes by factors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_MOST_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class MatrixReport:
    """One tensor that an adapter changes by factors."""

    name: str
    shape: list[int]
    rank: int
    norm: float
    """The Frobenius norm of the change that the factors stand for."""
    error: float
    """The norm of that change minus the product of the stored factors, as a share of it."""


def overall_error(matrices: Iterable[MatrixReport]) -> float:
    """Return the relative error of all matrices together; 0 where nothing changes.

    >>> overall_error([MatrixReport("x", [2, 2], 1, norm=3.0, error=0.5)])
    0.5
    """
    found = list(matrices)
    whole = math.fsum(one.norm**2 for one in found)
    lost = math.fsum((one.error * one.norm) ** 2 for one in found)
    return math.sqrt(lost / whole) if whole else 0.0


def worst(matrices: Iterable[MatrixReport]) -> str:
    """Name the few matrices of the largest errors."""
    found = sorted(matrices, key=lambda one: one.error, reverse=True)[:_MOST_SHOWN]
    return ", ".join(f"{one.name} {one.error:.3g}" for one in found)
