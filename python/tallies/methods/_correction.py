"""Correct all task vectors of a matrix by one matrix, outside their shared subspace."""

from __future__ import annotations

from ..linalg import spectral
from ..linalg.adam import Adam
from ._matrix import Deltas, Tensor

_RATE = 1e-4


def corrected_sum(deltas: Deltas, norm: float, n_shared: int, n_steps: int) -> Tensor:
    """Return sum_t c_t mask_t (x_t + D) over the task vectors x_t that are not zero.

    c_t is norm / |x_t|_F, mask_t the mask of the trim, and D the ``correction``.

    Args:
        deltas: The task vectors.
        norm: The norm of each task vector in the sum.
        n_shared: The number of directions of the shared subspace.
        n_steps: Steps of Adam.
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
    """Return the ``n_shared`` largest directions, as columns, among those of all matrices.

    Each of the matrices ``xs`` adds its ``n_each`` largest left singular vectors.
    """
    import torch

    bases = [spectral.thin_svd(x, n_each)[0] for x in xs]
    return spectral.thin_svd(torch.cat(bases, 1), n_shared)[0].float()


def correction(xs: Tensor, coefficients: Tensor, subspace: Tensor, n_steps: int) -> Tensor:
    """Move D from zero by Adam down sum_t,i <x_ti, x_ti - sum_s c_s (x_si + D_i)>^2; return D.

    x_ti is row i of ``xs[t]``. From each gradient the part in the columns of ``subspace`` is
    removed.
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
