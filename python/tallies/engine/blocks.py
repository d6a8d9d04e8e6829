"""The matrices of one tensor: itself, or those of a stack, a few of which are read at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .files import grain_of
from .jobs import Work

# Elements of which a slice of a native job begins at a multiple.
_GRAIN = 64


@dataclass(frozen=True)
class Block:
    """Matrices of a tensor that lie end to end and are read and written at once."""

    shape: tuple[int, int]
    """The shape of each matrix."""
    n_matrices: int
    slice: dict[str, int]
    """``first`` and ``n_elements`` of the block in its tensor; empty for a whole tensor."""


def matrices_together(n_elements: int, grain: int = _GRAIN) -> int:
    """Return the matrices of so many elements in a block that begins at a multiple of the grain."""
    return grain // math.gcd(grain, n_elements)


def blocks(work: Work) -> Iterator[Block]:
    """Yield the blocks of a tensor that is a matrix or a stack of matrices, one after the other."""
    *stacked, rows, columns = work.shape
    if not stacked:
        yield Block((rows, columns), 1, {})
        return
    n_each = rows * columns
    together = matrices_together(n_each, math.lcm(_GRAIN, *map(grain_of, work.inputs)))
    for first in range(0, stacked[0], together):
        n = min(together, stacked[0] - first)
        yield Block((rows, columns), n, {"first": first * n_each, "n_elements": n * n_each})
