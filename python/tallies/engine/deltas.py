"""The task vectors of one matrix, each read from where it lies when a method asks for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from .._core import Limits, Plan, read_delta
from ..linalg.threads import Workers
from .blocks import Block
from .jobs import Work
from .outcomes import Trim

if TYPE_CHECKING:
    import torch

ONE_THREAD: Final = Limits(1, 1 << 20)
"""The limits of a pass over one matrix, in one of several workers."""


class NonFiniteError(Exception):
    """A task vector has a NaN or infinity, or the sum of several has."""


class Deltas:
    """The task vectors of one matrix, each read from where it lies when it is asked for.

    Args:
        plan: The native plan in which the tensor is a job.
        work: The tensor.
        job: Its number.
        block: The part of the tensor that is read at once.
        number: The number of the matrix in the block.
        trims: The thresholds of the experts over all matrices, if there are any.
        pool: The pool in which the matrix is merged.
        progress: Is called with the bytes read since the last call.
    """

    def __init__(
        self,
        plan: Plan,
        work: Work,
        job: int,
        block: Block,
        number: int,
        trims: Sequence[Trim],
        pool: Workers,
        progress: Callable[[int], object],
    ) -> None:
        self._plan, self._work, self._job = plan, work, job
        self._trims, self._pool, self._progress = trims, pool, progress
        self._base: list[int] = []
        self._experts: dict[int, list[int]] = {}
        self._block, self._number = block, number
        self.shape = block.shape

    def __len__(self) -> int:
        return len(self._work.weights)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[expert] for expert in range(len(self)))

    def __getitem__(self, expert: int) -> torch.Tensor:
        weight = self._work.weights[expert]
        delta = self._read(expert)
        return delta if weight == 1 else self._checked(delta.mul_(weight))

    def sum(self) -> torch.Tensor:
        """Return the sum of all in float32, in the order of the experts."""
        total = self[0]
        for expert in range(1, len(self)):
            total += self[expert]
        return self._checked(total)

    def kept(self, expert: int) -> torch.Tensor:
        """Return the mask of the entries that survive the threshold over all matrices."""
        import torch

        delta = self._read(expert)
        if not self._trims:
            return torch.ones(self.shape, dtype=torch.bool)
        return delta.abs_().view(torch.int32) > self._trims[expert].floor

    def fingerprints(self) -> list[list[int]]:
        """Return the fingerprints of base and experts; reads those that were not asked for."""
        for expert in range(len(self)):
            if expert not in self._experts:
                self._read(expert, accept=True)
        return [self._base, *(self._experts[expert] for expert in range(len(self)))]

    def _read(self, expert: int, *, accept: bool = False) -> torch.Tensor:
        import torch

        read = torch.empty(self._block.n_matrices, *self.shape)
        is_first = expert not in self._experts
        with self._pool.undisturbed():
            (self._base, lanes), nonfinite = read_delta(
                plan=self._plan,
                job=self._job,
                expert=expert,
                out=read.data_ptr(),
                limits=ONE_THREAD,
                progress=lambda n_bytes: self._progress(n_bytes if is_first else 0),
                **self._block.slice,
            )
        self._experts[expert] = lanes
        delta = read[self._number]
        if nonfinite and not accept and not bool(delta.isfinite().all()):
            raise NonFiniteError
        return delta

    def _checked(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        if not math.isfinite(torch.linalg.vector_norm(x, math.inf)):
            raise NonFiniteError
        return x
