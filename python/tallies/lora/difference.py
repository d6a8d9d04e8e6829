"""The difference of two tensors as matrices, read a block of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .._core import Plan, read_delta
from ..engine.deltas import ONE_THREAD, NonFiniteError
from ..engine.files import Operand
from ..linalg.randomised import RowBlocks, rows_together

if TYPE_CHECKING:
    import torch

# Elements of which a slice of a native job begins at a multiple.
_GRAIN: Final = 64
_BLOCK: Final = 1 << 20
"""Elements that are read at once where a tensor is no matrix."""


@dataclass(frozen=True)
class Difference:
    """A fine-tuned tensor minus the base's: a job of a native plan with two inputs."""

    plan: Plan
    job: int
    """The number of the tensor's job in the plan."""
    n_elements: int
    grain: int = _GRAIN
    """The elements of which a slice of the tensor begins at a multiple."""

    def read(self, first: int, n_elements: int) -> torch.Tensor:
        """Return ``n_elements`` of the difference, from element ``first`` on.

        Raises:
            NonFiniteError: One of them is NaN or infinite.
            StorageError: A file cannot be read.
        """
        import torch

        begin = first - first % self.grain
        end = min(-(-(first + n_elements) // self.grain) * self.grain, self.n_elements)
        read = torch.empty(end - begin)
        _, nonfinite = read_delta(
            plan=self.plan,
            job=self.job,
            expert=0,
            out=read.data_ptr(),
            limits=ONE_THREAD,
            first=begin,
            n_elements=end - begin,
        )
        found = read[first - begin : first - begin + n_elements]
        if nonfinite and not bool(found.isfinite().all()):
            raise NonFiniteError
        return found

    def is_zero(self) -> bool:
        """Tell if the two tensors are equal; raises as ``read`` does."""
        zero = True
        for first in range(0, self.n_elements, _BLOCK):
            n = min(_BLOCK, self.n_elements - first)
            zero = not bool(self.read(first, n).any()) and zero
        return zero


@dataclass(frozen=True)
class Piece:
    """Rows of a matrix that lie end to end in one tensor."""

    difference: Difference
    first: int
    """The element of the tensor with which they begin."""
    n_rows: int


def matrix(pieces: Sequence[Piece], n_columns: int, *, whole: bool) -> RowBlocks:
    """Return the matrix of these pieces, in blocks that are the same however it is read.

    Args:
        pieces: The pieces, from top to bottom.
        n_columns: The elements of a row.
        whole: Read it once and keep it in memory, not anew for each pass.
    """
    import torch

    n_rows = sum(piece.n_rows for piece in pieces)
    together = rows_together(n_columns)

    def rows(first: int, n: int) -> torch.Tensor:
        found, begin = [], 0
        for piece in pieces:
            top, bottom = max(first, begin), min(first + n, begin + piece.n_rows)
            if top < bottom:
                at = piece.first + (top - begin) * n_columns
                found.append(piece.difference.read(at, (bottom - top) * n_columns))
            begin += piece.n_rows
        read = found[0] if len(found) == 1 else torch.cat(found)
        return read.view(n, n_columns)

    kept = rows(0, n_rows) if whole else None

    def read() -> Iterator[tuple[int, torch.Tensor]]:
        for row in range(0, n_rows, together):
            n = min(together, n_rows - row)
            yield row, rows(row, n) if kept is None else kept[row : row + n]

    return RowBlocks((n_rows, n_columns), read)


def grain_of(*operands: Operand) -> int:
    """Return the elements of which a slice of a job with these inputs begins at a multiple."""
    grains = [1 if isinstance(one, tuple) else one.grain for one in operands]
    return math.lcm(_GRAIN, *grains)
