"""The difference of two tensors as matrices, read a block of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
    """A fine-tuned tensor minus the base's: a job of a native plan with two inputs.

    Args:
        plan: The plan in which the tensor is a job.
        job: Its number.
        n_elements: Its elements.
        grain: The elements of which a slice of it begins at a multiple.
    """

    plan: Plan
    job: int
    n_elements: int
    grain: int = _GRAIN

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

    def matrix(self, shape: tuple[int, int], number: int, *, whole: bool) -> RowBlocks:
        """Return a matrix of the tensor, in blocks that are the same however it is read.

        Args:
            shape: The shape of the matrix.
            number: Its number, where the tensor is a stack of matrices.
            whole: Read it once and keep it in memory, not anew for each pass.
        """
        n_rows, n_columns = shape
        first = number * n_rows * n_columns
        together = rows_together(n_columns)
        kept = self.read(first, n_rows * n_columns).view(shape) if whole else None

        def read() -> Iterator[tuple[int, torch.Tensor]]:
            for row in range(0, n_rows, together):
                n = min(together, n_rows - row)
                if kept is not None:
                    yield row, kept[row : row + n]
                else:
                    own = self.read(first + row * n_columns, n * n_columns)
                    yield row, own.view(n, n_columns)

        return RowBlocks(shape, read)


def grain_of(*operands: Operand) -> int:
    """Return the elements of which a slice of a job with these inputs begins at a multiple."""
    grains = [1 if isinstance(one, tuple) else one.grain for one in operands]
    return math.lcm(_GRAIN, *grains)
