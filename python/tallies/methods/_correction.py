"""One correction of all task vectors of a matrix, outside the subspace that they share."""

from __future__ import annotations

from ..linalg import spectral
from ..linalg.adam import Adam
from ._matrix import Deltas, Tensor

_RATE = 1e-4


def corrected_sum(deltas: Deltas, norm: float, n_shared: int, n_steps: int) -> Tensor:
    """sum_t c_t mask_t (x_t + D) over the task vectors x_t that are not zero, c_t = norm / |x_t|_F.

    mask_t is what the trim keeps; D is their ``correction`` outside ``n_shared`` directions.
    """
    import torch

    pairs = [(t, x) for t, x in enumerate(deltas) if x.any()]
    merged = torch.zeros(deltas.shape)
    if not pairs:
        return merged
    xs = torch.stack([x for _, x in pairs])
    coefficients = (norm / xs.double().flatten(1).norm(dim=1)).float()
    shared = shared_subspace(xs, min(deltas.shape) // len(deltas), n_shared)
    moved = correction(xs, coefficients, shared, n_steps)
    for (t, x), coefficient in zip(pairs, coefficients, strict=True):
        merged += coefficient * (x + moved) * deltas.kept(t)
    return merged


def shared_subspace(xs: Tensor, n_each: int, n_shared: int) -> Tensor:
    """The ``n_shared`` largest directions, as columns, of those that the matrices ``xs`` have.

    Each has its ``n_each`` largest left singular vectors.
    """
    import torch

    bases = [spectral.thin_svd(x, n_each)[0] for x in xs]
    return spectral.thin_svd(torch.cat(bases, 1), n_shared)[0].float()


def correction(xs: Tensor, coefficients: Tensor, subspace: Tensor, n_steps: int) -> Tensor:
    """The D to which Adam moves from zero down sum_t,i <x_ti, x_ti - sum_s c_s (x_si + D_i)>^2.

    i are the rows of the matrices x_t = ``xs[t]``; of each gradient only what is orthogonal to the
    columns of ``subspace`` counts.
    """
    import torch

    whole = torch.tensordot(coefficients, xs, 1)
    brackets = (xs.double() * (xs - whole).double()).sum(2).float()
    total = float(coefficients.sum())
    adam = Adam(whole, _RATE)
    for _ in range(n_steps):
        errors = brackets - total * torch.einsum("tij,ij->ti", xs, adam.moved)
        gradient = torch.einsum("ti,tij->ij", errors, xs).mul_(-2 * total)
        adam.step(gradient - subspace @ (subspace.T @ gradient))
    return adam.moved
