"""Inner products of the models' vectors, from which methods solve for coefficients."""

from __future__ import annotations

import math
from collections.abc import Sequence


class Gram:
    """Inner products of n vectors, and their sums of magnitudes where a method asks for those.

    The vectors are the models' weights, or their differences from the base for methods that have
    one: of a row, a tensor or the whole model.
    """

    def __init__(self, n: int, sums: Sequence[float]) -> None:
        """``sums`` are the products of vector i with those up to i for each i in turn, and then
        the sums of magnitudes."""
        self.n = n
        self._sums = sums
        self.magnitudes = sums[n * (n + 1) // 2 :]

    def is_finite(self) -> bool:
        """Whether no vector has a NaN or an infinity."""
        return all(map(math.isfinite, self._sums))

    def dot(self, i: int, j: int) -> float:
        """The inner product of two of the vectors."""
        i, j = max(i, j), min(i, j)
        return self._sums[i * (i + 1) // 2 + j]

    def norm(self, i: int) -> float:
        """The Euclidean length of a vector."""
        return math.sqrt(self.dot(i, i))

    def norms(self) -> list[float]:
        """The Euclidean lengths of all vectors."""
        return [self.norm(i) for i in range(self.n)]

    def cosine(self, i: int, j: int, least: float = 0.0, more: float = 0.0) -> float:
        """The cosine between two vectors, in [-1, 1]; 0 where one of them is zero.

        Its divisor, the product of their lengths, is ``least`` at least, and ``more`` than that.
        """
        # The root of the product: exactly 1 and -1 for vectors that are multiples of each other.
        size = max(math.sqrt(self.dot(i, i) * self.dot(j, j)), least) + more
        return max(-1.0, min(1.0, self.dot(i, j) / size)) if size > 0 else 0.0

    def product(self, a: Sequence[float], b: Sequence[float]) -> float:
        """The inner product of two sums of the vectors, with these coefficients."""
        return math.fsum(a[i] * b[j] * self.dot(i, j) for i in range(self.n) for j in range(self.n))

    def unit(self, a: Sequence[float]) -> tuple[list[float], float]:
        """The coefficients that make a sum of the vectors one of length 1, and its length so far.

        A sum of length 0 stays as it is.
        """
        length = math.sqrt(max(self.product(a, a), 0.0))
        return [x / (length or 1.0) for x in a], length

    def angle(self, a: Sequence[float], b: Sequence[float]) -> float:
        """The angle between two sums of the vectors of length 1, in [0, pi]."""
        return math.acos(max(-1.0, min(1.0, self.product(a, b))))

    @classmethod
    def total(cls, n: int, parts: Sequence[Sequence[float]]) -> Gram:
        """Over the vectors put end to end of which ``parts`` have the sums."""
        none = [0.0] * (n * (n + 1) // 2 + n)
        return cls(n, [math.fsum(column) for column in zip(*parts, strict=True)] or none)
