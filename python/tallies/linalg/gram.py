"""The inner products of the models' vectors, from which methods solve for coefficients."""

from __future__ import annotations

import math
from collections.abc import Sequence


class Gram:
    """The inner products of n vectors, and the vectors' sums of magnitudes where a method asks.

    The vectors are the models' weights, or the task vectors for methods that have a base, of a row,
    a tensor or the whole model.

    Args:
        n: The number of vectors.
        sums: For each i in turn the products of vector i with vectors 0 to i, and behind all
            products the n sums of magnitudes, if any.
    """

    def __init__(self, n: int, sums: Sequence[float]) -> None:
        self.n = n
        self._sums = sums
        self.magnitudes = sums[n * (n + 1) // 2 :]

    def is_finite(self) -> bool:
        """Return whether no vector has a NaN or an infinity."""
        return all(map(math.isfinite, self._sums))

    def dot(self, i: int, j: int) -> float:
        """Return the inner product of two vectors."""
        i, j = max(i, j), min(i, j)
        return self._sums[i * (i + 1) // 2 + j]

    def norm(self, i: int) -> float:
        """Return the Euclidean length of a vector."""
        return math.sqrt(self.dot(i, i))

    def norms(self) -> list[float]:
        """Return the Euclidean lengths of all vectors."""
        return [self.norm(i) for i in range(self.n)]

    def cosine(self, i: int, j: int, least: float = 0.0, more: float = 0.0) -> float:
        """Return the cosine between two vectors, in [-1, 1]; 0 where one of them is zero.

        Args:
            i: The first vector.
            j: The second vector.
            least: Lower bound for the divisor, the product of both lengths.
            more: Added to the divisor after that.
        """
        # The root of the product: exactly 1 and -1 for vectors that are multiples of each other.
        size = max(math.sqrt(self.dot(i, i) * self.dot(j, j)), least) + more
        return max(-1.0, min(1.0, self.dot(i, j) / size)) if size > 0 else 0.0

    def product(self, a: Sequence[float], b: Sequence[float]) -> float:
        """Return the inner product of two sums of the vectors, with these coefficients."""
        return math.fsum(a[i] * b[j] * self.dot(i, j) for i in range(self.n) for j in range(self.n))

    def unit(self, a: Sequence[float]) -> tuple[list[float], float]:
        """Scale a sum of the vectors to length 1; return its coefficients, and its length before.

        The coefficients of a sum of length 0 are returned unchanged.
        """
        length = math.sqrt(max(self.product(a, a), 0.0))
        return [x / (length or 1.0) for x in a], length

    def angle(self, a: Sequence[float], b: Sequence[float]) -> float:
        """Return the angle, in [0, pi], between two sums of the vectors, each of length 1."""
        return math.acos(max(-1.0, min(1.0, self.product(a, b))))

    @classmethod
    def total(cls, n: int, parts: Sequence[Sequence[float]]) -> Gram:
        """Add up the sums of parts, and return the inner products of the parts put end to end."""
        none = [0.0] * (n * (n + 1) // 2 + n)
        return cls(n, [_sum(column) for column in zip(*parts, strict=True)] or none)


def _sum(values: Sequence[float]) -> float:
    """Return the exact sum, rounded once; NaN for infinities of both signs."""
    try:
        return math.fsum(values)
    except ValueError:
        return math.nan
