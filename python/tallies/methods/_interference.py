"""The interference of a merged matrix with each task in its task vector's own directions."""

from __future__ import annotations

from ..linalg import spectral
from ..linalg.adam import Adam
from ._matrix import Deltas, Tensor


class Interference:
    """f(M) = sum_t |(M - x_t) x_t^T|_F^2 / |x_t|_F^p over the task vectors x_t of a matrix.

    The gradient is 2 (M H - T) with the float64 sums H = sum_t x_t^T x_t / |x_t|_F^p, [n, n], and
    T = sum_t x_t x_t^T x_t / |x_t|_F^p, [m, n]. Task vectors of zero take no part.

    Args:
        deltas: The task vectors x_t.
        power: The power p.
    """

    def __init__(self, deltas: Deltas, power: int) -> None:
        import torch

        self._curvature = torch.zeros(deltas.shape[1], deltas.shape[1], dtype=torch.float64)
        self._target = torch.zeros(deltas.shape, dtype=torch.float64)
        for delta in deltas:
            x = delta.double()
            if norm := float(x.norm()):
                gram = x.T @ x / norm**power
                self._curvature += gram
                self._target.addmm_(x, gram)

    def minimum(self) -> Tensor:
        """Return the minimum of f with the least norm, T H^+."""
        import torch

        values, vectors = torch.linalg.eigh(self._curvature)
        kept = values > spectral.EPSILON * values[-1].clamp(min=0)
        vectors = vectors[:, kept]
        return torch.mm(self._target @ vectors / values[kept], vectors.T).float()

    def descend(self, start: Tensor, n_steps: int, rate: float) -> Tensor:
        """Move ``start`` by Adam, in place, and return it."""
        import torch

        # The gradient at the start is float64; the displacement from there on is small.
        slope = (start.double() @ self._curvature - self._target).float()
        curvature = self._curvature.float()
        adam = Adam(start, rate)
        for _ in range(n_steps):
            adam.step(2 * torch.addmm(slope, adam.moved, curvature))
        return start.add_(adam.moved)
