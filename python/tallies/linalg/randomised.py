"""Find the largest singular triplets of a matrix by a random start and a few passes over it.

Halko, Martinsson and Tropp, Finding Structure with Randomness, 2011, arXiv 0909.4061. The random
numbers are a function of the seed and of their position alone, products are float32 and summed in
float64 a block of rows at a time, and the decomposition of the small matrix is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .spectral import EPSILON, thin_svd

if TYPE_CHECKING:
    import torch

OVERSAMPLING: Final = 10
"""Directions that are followed beside those that are wanted."""

N_ITERATIONS: Final = 2
"""Power iterations: each takes a pass over the matrix, and sharpens a flat spectrum."""

_FIRST_RANK: Final = 64
"""The rank that a search by energy tries first; it doubles from there."""

_BLOCK: Final = 1 << 20
"""Elements of a block of rows: 4 MiB."""

_MULTIPLIERS: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_STEP: Final = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class RowBlocks:
    """A matrix that is read a block of rows at a time, as often as it is needed."""

    shape: tuple[int, int]
    read: Callable[[], Iterator[tuple[int, torch.Tensor]]]
    """Yields the first row and the float32 rows of each block, in order, without gaps."""


@dataclass(frozen=True)
class Triplets:
    """The largest singular triplets of a matrix, and the energy that the matrix has in all."""

    u: torch.Tensor
    """[m, k], float64, orthonormal columns."""
    s: torch.Tensor
    """[k], float64, descending, above zero."""
    v: torch.Tensor
    """[k, n], float64, orthonormal rows; the largest entry of each is positive."""
    energy: float
    """The sum of squares of all entries."""

    @property
    def error(self) -> float:
        """The relative error of u diag(s) v in the Frobenius norm; 0 for a matrix of zeros.

        Float32 products leave it uncertain below 1e-3.
        """
        left = self.energy - float(self.s.square().sum())
        return math.sqrt(max(left, 0.0) / self.energy) if self.energy else 0.0

    def first(self, rank: int) -> Triplets:
        """Return the ``rank`` largest triplets."""
        return Triplets(self.u[:, :rank], self.s[:rank], self.v[:rank], self.energy)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (left [m, k], right [k, n]) whose product is u diag(s) v; their norms are equal.

        Each singular value is shared in equal parts, so that neither factor overflows nor vanishes
        in a narrow dtype.
        """
        root = self.s.sqrt()
        return self.u * root, root[:, None] * self.v


def randomised_svd(
    x: torch.Tensor | RowBlocks,
    rank: int,
    *,
    seed: int = 0,
    oversampling: int = OVERSAMPLING,
    n_iterations: int = N_ITERATIONS,
) -> Triplets:
    """Return the ``rank`` largest singular triplets of a matrix, nearly.

    The same seed gives the same triplets, in blocks of any size, up to the rounding of float32
    products. A matrix whose smaller side is at most rank + oversampling is decomposed exactly.

    Args:
        x: A finite matrix [m, n], float32.
        rank: The most triplets; fewer come back where the others are zero.
        seed: The seed of the random start, 64 bits.
        oversampling: Directions that are followed beside ``rank``.
        n_iterations: The number of power iterations; the matrix is read once more than that.

    Returns:
        Triplets whose error is near the least that a matrix of this rank can have.

    >>> import torch
    >>> x = torch.outer(torch.arange(100.0), torch.arange(50.0))
    >>> randomised_svd(x, 4).s.shape
    torch.Size([1])
    """
    import torch

    blocks = x if isinstance(x, RowBlocks) else row_blocks(x)
    m, n = blocks.shape
    width = rank + oversampling
    if width >= min(m, n):
        return _exact(blocks).first(rank)
    q = torch.linalg.qr(uniform(n, width, seed))[0].float()
    for _ in range(n_iterations):
        image = torch.zeros(n, width, dtype=torch.float64)
        for _, block in blocks.read():
            own = block @ q
            # Products of two small or two large values leave the range of float32.
            unit = math.ldexp(1.0, -min(max(math.frexp(float(own.abs().max()))[1], -126), 126))
            image += (block.T @ (own * unit)).double() / unit
        q = torch.linalg.qr(image)[0].float()
    image = torch.empty(m, width, dtype=torch.float64)
    energy = 0.0
    for first, block in blocks.read():
        image[first : first + len(block)] = block @ q
        energy += _energy(block)
    basis, small = torch.linalg.qr(image)
    u, s, v = torch.linalg.svd(small, full_matrices=False)
    kept = int((s[:rank] > EPSILON * s[0]).sum())
    return _signed(Triplets(basis @ u[:, :kept], s[:kept], v[:kept] @ q.double().T, energy))


def svd_by_energy(
    x: torch.Tensor | RowBlocks, share: float, *, most: int | None = None, seed: int = 0
) -> Triplets:
    """Return the fewest triplets that hold this share of a matrix's energy.

    Args:
        x: A finite matrix [m, n], float32.
        share: The share of the sum of squares to keep, above 0 and at most 1.
        most: Upper bound for the number of triplets.
        seed: The seed of the random start.

    Returns:
        Triplets whose s ** 2 add up to at least ``share`` of the energy, unless ``most`` bounds
        their number. A matrix of zeros has none.

    >>> import torch
    >>> len(svd_by_energy(torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0])), 0.9).s)
    2
    """
    m, n = x.shape
    most = min(m, n) if most is None else min(most, m, n)
    rank = min(_FIRST_RANK, most)
    while True:
        found = randomised_svd(x, rank, seed=seed)
        sums = found.s.square().cumsum(0)
        # The sums are of float32 products: a share of 1 means all that is above their rounding.
        needed = int((sums < share * found.energy * (1 - EPSILON)).sum()) + 1
        if needed <= len(found.s) or len(found.s) < rank or rank == most:
            return found.first(needed)
        # Beyond half of its rank a matrix is decomposed faster as a whole.
        rank = most if 4 * rank >= min(m, n) else min(2 * rank, most)


def row_blocks(x: torch.Tensor) -> RowBlocks:
    """Return a matrix in memory as blocks of rows."""
    m, n = x.shape
    n_rows = rows_together(n)

    def read() -> Iterator[tuple[int, torch.Tensor]]:
        for first in range(0, m, n_rows):
            yield first, x[first : first + n_rows]

    return RowBlocks((m, n), read)


def rows_together(n_columns: int) -> int:
    """Return the rows of a block: as many as both products of a pass find in the cache."""
    return max(1, _BLOCK // max(n_columns, 1))


def uniform(n_rows: int, n_columns: int, seed: int) -> torch.Tensor:
    """Return numbers from -1 to 1, functions of the seed and of their position alone.

    Args:
        n_rows: The number of rows.
        n_columns: The number of columns; it does not change the numbers of a row that it keeps.
        seed: The seed, 64 bits.

    Returns:
        float64 [n_rows, n_columns]: odd multiples of 2^-24.

    >>> bool((uniform(3, 5, 7)[:, :2] == uniform(3, 2, 7)).all())
    True
    """
    import torch

    # SplitMix64, whose state is a position: column in the upper half, row in the lower one.
    at = torch.arange(n_rows)[:, None] + (torch.arange(n_columns) << 32)
    bits = at * _signed64(_STEP) + _signed64(seed * _MULTIPLIERS[0] + _STEP)
    for shift, factor in zip((30, 27), _MULTIPLIERS, strict=True):
        bits = (bits ^ _shifted(bits, shift)) * _signed64(factor)
    bits = _shifted(bits ^ _shifted(bits, 31), 40)
    return (2.0 * bits.double() + 1) * 2.0**-24 - 1


def _shifted(bits: torch.Tensor, by: int) -> torch.Tensor:
    """Shift 64 bits to the right, with zeros from the left."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed64(value: int) -> int:
    value %= 1 << 64
    return value - (1 << 64) if value >> 63 else value


def _exact(blocks: RowBlocks) -> Triplets:
    """Decompose a matrix as a whole."""
    import torch

    x = torch.zeros(blocks.shape, dtype=torch.float32)
    for first, block in blocks.read():
        x[first : first + len(block)] = block
    u, s, v = thin_svd(x)
    return _signed(Triplets(u, s, v, _energy(x)))


def _energy(x: torch.Tensor) -> float:
    import torch

    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2


def _signed(found: Triplets) -> Triplets:
    """Make the largest entry of each right vector positive, so that the signs are not LAPACK's."""
    import torch

    if not found.v.numel():
        return found
    largest = found.v.gather(1, found.v.abs().argmax(1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(found.v.dtype)
    return Triplets(found.u * sign.T, found.s, found.v * sign, found.energy)
