"""Twin-Merging: a merged expert that all tasks share, and what is exclusive to each, compressed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...spec.parameters import Parameter
from ...spec.rules import Blend, Gate, Rule, Vote
from ._codec import SHARED_DTYPE
from ._low_rank import LowRankCodec


class Twin(LowRankCodec):
    """Task arithmetic for all, and for each task the largest singular triplets of the difference.

    x_t = f_t - base; m = scale sum_t x_t; x_t - m = U diag(s) V^T; f_t ~ base + m + sum over the k
    largest of s_i u_i v_i^T, k = int(min(m, n) fraction). The difference is to m as it is stored,
    rounded. Mixing the exclusive parts by a trained router is not done.

    Tensors with other than two dimensions are kept as they are, bit for bit and in their own dtype,
    and so are matrices whose name contains one of the parts in ``exclude``. s is float32.
    A NaN or infinity is an error, or makes the matrix NaN where ``nonfinite`` allows it; in the sum
    that of all tasks. Reconstruction is float32, base plus m first, then the terms in the order of
    the singular values, largest first, rounded once to the base's dtype.

    Lu et al., Twin-Merging: Dynamic Integration of Modular Expertise, 2024, arXiv 2406.15479.
    """

    name = "twin"
    formula = "f_t ~ base + m + U_k diag(s_k) V_k^T of f_t - base - m, m = scale sum_t (f_t - base)"
    paper = "Lu et al. 2024, arXiv 2406.15479"

    scale = Parameter(0.29, "factor on the sum of the task vectors in the shared expert")
    shared_dtype = SHARED_DTYPE

    @classmethod
    def shared_rule(cls, parameters: Mapping[str, Any]) -> Rule | None:
        return Rule(Gate.ALL, Vote.NONE, Blend.SUM)
