"""STAR: truncate and rescale the spectrum of each task."""

from __future__ import annotations

from ..linalg import spectral
from ..spec.choices import Semantics
from ..spec.parameters import Parameter, Values
from ._matrix import Deltas, MatrixMethod, Tensor


class Star(MatrixMethod):
    """Cut each task's matrix to its largest singular values, restore their sum, and average.

    x_t = w_t (f_t - base) = U diag(s) V^T; R is the least number of largest singular values whose
    sum is eta percent of all; out = base + scale * mean_t U_R diag(s_R) V_R^T sum(s) / sum(s_R).

    eta = 100 averages the task vectors. At least one triplet is kept, and a matrix of zeros stays
    zero; singular values up to 2^-23 of the largest count as zero. A matrix with a NaN or infinite
    task vector becomes NaN as a whole, which is an error unless the merge's ``nonfinite`` says
    otherwise.

    Lee et al., STAR: Spectral Truncation and Rescale, 2025, arXiv 2502.10339.
    """

    name = "star"
    formula = "out = base + scale * mean_t (x_t cut to eta % of its nuclear norm, norm restored)"
    paper = "Lee et al. 2025, arXiv 2502.10339"
    keeps_one_expert = False
    copies = 7.0

    eta = Parameter(40.0, "percent of the sum of singular values that is kept", low=0, high=100)

    @classmethod
    def merge_matrix(cls, deltas: Deltas, parameters: Values, semantics: Semantics) -> Tensor:
        import torch

        merged = torch.zeros(deltas.shape, dtype=torch.float64)
        for x in deltas:
            u, s, v = spectral.thin_svd(x)
            if not s.numel():
                continue
            sums = s.cumsum(0)
            n_kept = int((sums < parameters["eta"] / 100 * sums[-1]).sum()) + 1
            kept = s[:n_kept] * (sums[-1] / sums[min(n_kept, len(s)) - 1])
            merged.addmm_(u[:, :n_kept] * kept, v[:n_kept], alpha=1 / len(deltas))
        return merged.float()
