"""Merge task singular vectors."""

from __future__ import annotations

from ..linalg import spectral
from ..spec.choices import Semantics
from ..spec.parameters import Values
from ._matrix import Deltas, Tensor
from ._singular import SingularMethod, orthogonal


class TsvM(SingularMethod):
    """Keep the largest directions of each task's matrix, and make those of all tasks orthogonal.

    x_t = w_t (f_t - base); k = int(min(m, n) / N); the k largest singular triplets of each x_t,
    side by side, are U, s, V; out = base + scale * polar(U) diag(s) polar(V)^T.

    One expert alone is the result, up to rounding; more experts than min(m, n) leave the base.
    Singular values up to 2^-23 of the largest count as zero; the order of equal ones is arbitrary.
    A matrix with a NaN or infinite task vector becomes NaN as a whole, which is an error unless the
    merge's ``nonfinite`` says otherwise. fusionbench semantics excludes no matrix.

    Gargiulo et al., Task Singular Vectors (TSV-M), 2025, arXiv 2412.00081.
    """

    name = "tsv_m"
    formula = "out = base + scale * polar(U) diag(s) polar(V)^T of the tasks' largest triplets"
    paper = "Gargiulo et al. 2025, arXiv 2412.00081"
    copies = 6.0

    @classmethod
    def merge_matrix(cls, deltas: Deltas, parameters: Values, semantics: Semantics) -> Tensor:
        import torch

        k = min(deltas.shape) // len(deltas)
        parts = [spectral.thin_svd(x, k) for x in deltas]
        u, v = orthogonal(parts)
        return ((u * torch.cat([part[1] for part in parts])) @ v).float()
