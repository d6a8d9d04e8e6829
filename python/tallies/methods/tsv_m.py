"""Merging of task singular vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import spectral
from ._matrix import Deltas, MatrixMethod
from ._spec import Parameter

if TYPE_CHECKING:
    import torch


class TsvM(MatrixMethod):
    """Keep the largest directions of each task's matrix, and make those of all tasks orthogonal.

    x_t = w_t (f_t - base); k = int(min(m, n) / N); the k largest singular triplets of each x_t,
    side by side, are U, s, V; out = base + scale * polar(U) diag(s) polar(V)^T.

    One expert is given back, up to rounding; more experts than min(m, n) leave the base. Singular
    values that do not exceed 2^-23 of the largest count as zero; which of several equal ones are
    the largest is arbitrary. A matrix with a NaN or infinite task vector becomes NaN as a whole,
    which is an error unless the merge's ``nonfinite`` says otherwise. fusionbench semantics
    excludes no matrix.

    Gargiulo et al., Task Singular Vectors (TSV-M), 2025, arXiv 2412.00081.
    """

    name = "tsv_m"
    formula = "out = base + scale * polar(U) diag(s) polar(V)^T of the tasks' largest triplets"
    paper = "Gargiulo et al. 2025, arXiv 2412.00081"
    semantics = ("paper", "fusionbench")
    copies = 6.0

    exclude = Parameter(
        "text_projection",
        "parts of names, between commas, of matrices merged like other tensors",
        by_semantics={"fusionbench": ""},
    )

    @classmethod
    def merge_matrix(
        cls, deltas: Deltas, parameters: Mapping[str, Any], semantics: str
    ) -> torch.Tensor:
        import torch

        k = min(deltas.shape) // len(deltas)
        parts = [spectral.thin_svd(x, k) for x in deltas]
        u, _ = spectral.polar(torch.cat([part[0] for part in parts], 1))
        v, _ = spectral.polar(torch.cat([part[2] for part in parts]))
        return ((u * torch.cat([part[1] for part in parts])) @ v).float()
