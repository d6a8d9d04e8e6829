"""Isotropic merging in common and task-specific subspaces."""

from __future__ import annotations

from ..linalg import spectral
from ..spec.choices import Semantics
from ..spec.parameters import Parameter, Values
from ._matrix import Deltas, Tensor
from ._singular import SingularMethod, orthogonal


class IsoCts(SingularMethod):
    """Replace some directions of iso_c's sum by directions of the single tasks.

    Each of N tasks gets d = round((r - int(r f)) / N) of the r = min(m, n) directions, half to
    even, and one less where the tasks' directions would be more than r; the sum S keeps its other k
    = r - N d largest, U_k. Each task adds the d largest of x_t - U_k U_k^T x_t. With U and V the
    polar factors of all vectors side by side: out = base + scale * mean(s) U V^T, the mean over r.
    d = 0 is iso_c.

    Singular values up to 2^-23 of the largest of S, or of the norm of x_t, count as zero, and their
    directions are left out. NaN and excluded matrices are treated as in ``iso_c``.

    Marczak et al., No Task Left Behind (Iso-CTS), 2025, arXiv 2502.04959.
    """

    name = "iso_cts"
    formula = "out = base + scale * mean(s) U V^T of common and task-specific directions"
    paper = "Marczak et al. 2025, arXiv 2502.04959"
    keeps_one_expert = False
    copies = 8.0

    common_space_fraction = Parameter(0.8, "share f of the sum's directions", low=0, high=1)

    @classmethod
    def merge_matrix(cls, deltas: Deltas, parameters: Values, semantics: Semantics) -> Tensor:
        r = min(deltas.shape)
        k, d = ranks(r, float(parameters["common_space_fraction"]), len(deltas))
        u_k, s_k, v_k = spectral.thin_svd(deltas.sum(), k)
        parts = [
            spectral.thin_svd(
                x.double() - u_k @ (u_k.T @ x.double()), d, spectral.EPSILON * float(x.norm())
            )
            for x in (deltas if d else [])
        ]
        parts.append((u_k, s_k, v_k))
        u, v = orthogonal(parts)
        mean = sum(float(part[1].sum()) for part in parts) / r
        return ((u @ v) * mean).float()


def ranks(r: int, fraction: float, n_experts: int) -> tuple[int, int]:
    """Return the number of directions of the sum, and of each task."""
    d = round((r - int(r * fraction)) / n_experts)
    if d * n_experts > r:
        d -= 1
    return r - d * n_experts, d
