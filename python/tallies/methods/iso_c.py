"""Isotropic merging in the common subspace."""

from __future__ import annotations

from ..linalg import spectral
from ..spec.choices import Semantics
from ..spec.parameters import Values
from ._matrix import Deltas, Tensor
from ._singular import SingularMethod


class IsoC(SingularMethod):
    """Give all directions of the summed task vector of a matrix the same strength.

    x_t = w_t (f_t - base); S = sum_t x_t = U diag(s) V^T; out = base + scale * mean(s) U V^T.

    The mean is over min(m, n) values. Singular values up to 2^-23 of the largest count as zero, and
    their directions are left out, so that S alone decides the result; where S is zero the result is
    the base. A matrix with a NaN or infinite task vector becomes NaN as a whole, which is an error
    unless the merge's ``nonfinite`` says otherwise. fusionbench semantics excludes no matrix.

    Marczak et al., No Task Left Behind (Iso-C), 2025, arXiv 2502.04959.
    """

    name = "iso_c"
    formula = "out = base + scale * mean(s) U V^T of sum_t (f_t - base) = U diag(s) V^T"
    paper = "Marczak et al. 2025, arXiv 2502.04959"
    keeps_one_expert = False

    @classmethod
    def merge_matrix(cls, deltas: Deltas, parameters: Values, semantics: Semantics) -> Tensor:
        factor, total = spectral.polar(deltas.sum())
        return factor.mul_(total / min(deltas.shape))
