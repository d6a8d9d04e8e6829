"""Factor the difference of two tensors into the product of an adapter's two matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..linalg.randomised import OVERSAMPLING, RowBlocks, Triplets, randomised_svd, svd_by_energy
from .difference import Piece, matrix
from .targets import Target

if TYPE_CHECKING:
    import torch

_WHOLE_COPIES: Final = 3
"""Copies of a matrix in memory while it is decomposed as a whole."""


@dataclass(frozen=True)
class Request:
    """The wanted factors."""

    rank: int | float
    """The rank; or, as a float, the share of each matrix's energy to keep."""
    max_rank: int | None
    alpha: float | None
    dtype: str
    seed: int

    @property
    def most(self) -> int | None:
        """The largest rank that any matrix may get; None where the energy alone decides."""
        return self.max_rank if isinstance(self.rank, float) else self.rank


@dataclass(frozen=True)
class Factored:
    """The factors of one tensor, as the writer takes them; ``left`` is None where it is equal."""

    left: Any = None
    right: Any = None
    rank: int = 0
    energy: float = 0.0
    """The sum of squares of the difference."""
    residual: float = 0.0
    """The same of the difference minus the product of the stored factors, at their scale."""


def is_stack(target: Target) -> bool:
    """Tell if a tensor is a stack of matrices, each of which has factors of its own."""
    return len(target.shape) == 3 and target.is_parameter


def matrix_shape(target: Target) -> tuple[int, int, int]:
    """Return the number of matrices of a tensor, and the rows and columns of each."""
    rows, *others = target.shape
    if is_stack(target):
        return rows, others[0], others[1]
    return 1, rows, math.prod(others)


def n_bytes(target: Target, request: Request, *, whole: bool) -> int:
    """Return the memory that factoring takes.

    Args:
        target: The tensor.
        request: The wanted factors.
        whole: The matrix is read once and kept.
    """
    n, rows, columns = matrix_shape(target)
    least = min(rows, columns)
    most = least if request.most is None else min(request.most, least)
    width = min(most + OVERSAMPLING, least)
    factors = 3 * 8 * width * (rows + columns) + 3 * 4 * n * most * (rows + columns)
    blocks = 1 << 25
    if width == least:
        # The Gram matrix and its vectors, float64; a float64 factor as large as the matrix.
        return _WHOLE_COPIES * 4 * rows * columns + 8 * 8 * least**2 + factors + blocks
    return (4 * rows * columns if whole else 0) + factors + blocks


def factor(
    matrices: Sequence[Sequence[Piece]], target: Target, request: Request, *, whole: bool
) -> Factored:
    """Factor a tensor, or each matrix of a stack.

    Args:
        matrices: The pieces of each matrix.
        target: The shape and kind of the tensor.
        request: The wanted factors.
        whole: Keep the matrix in hand in memory. The factors do not depend on it.

    Raises:
        NonFiniteError: A value is NaN or infinite.
        StorageError: A file cannot be read.
    """
    import torch

    n, rows, columns = matrix_shape(target)
    found = [_triplets(matrix(one, columns, whole=whole), request) for one in matrices]
    if not any(len(one.s) for one in found):
        return Factored()
    # One rank for all matrices of a stack; a rank in numbers is the same for all tensors.
    rank = max(len(one.s) for one in found)
    if not isinstance(request.rank, float):
        rank = min(request.rank, rows, columns)
    left, right = torch.zeros(n, rows, rank), torch.zeros(n, rank, columns)
    for number, one in enumerate(found):
        own = one.factors()
        left[number, :, : len(one.s)], right[number, : len(one.s)] = own
    stored = _as_stored(left, right, rank, request)
    residual = 0.0
    for pieces, own_left, own_right in zip(matrices, *stored, strict=True):
        residual += _residual(matrix(pieces, columns, whole=whole), own_left, own_right)
    if not is_stack(target):
        left, right = left[0], right[0]
    energy = sum(one.energy for one in found)
    return Factored(left.numpy(), right.numpy(), rank, energy, residual)


def _triplets(x: RowBlocks, request: Request) -> Triplets:
    if isinstance(request.rank, float):
        return svd_by_energy(x, request.rank, most=request.max_rank, seed=request.seed)
    return randomised_svd(x, request.rank, seed=request.seed)


def _as_stored(
    left: torch.Tensor, right: torch.Tensor, rank: int, request: Request
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return factors whose product is that of the stored ones at their scale."""
    import torch

    dtype = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[request.dtype]
    scale = 1.0 if request.alpha is None else request.alpha / rank
    return (left / scale).to(dtype).float() * scale, right.to(dtype).float()


def _residual(x: RowBlocks, left: torch.Tensor, right: torch.Tensor) -> float:
    """Return the sum of squares of a matrix minus a product."""
    import torch

    total = 0.0
    for first, block in x.read():
        rest = torch.addmm(block, left[first : first + len(block)], right, alpha=-1)
        total += float(torch.linalg.vector_norm(rest, dtype=torch.float64)) ** 2
    return total
