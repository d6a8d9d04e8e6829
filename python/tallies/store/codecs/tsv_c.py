"""TSV-C: the largest singular triplets of each task's matrices."""

from __future__ import annotations

from ._low_rank import LowRankCodec


class TsvC(LowRankCodec):
    """For each task the largest singular triplets of its matrices; nothing is shared.

    x_t = f_t - base = U diag(s) V^T; f_t ~ base + sum over the k largest of s_i u_i v_i^T, k =
    int(min(m, n) fraction). The paper's fraction is 1 over the number of tasks.

    Tensors with other than two dimensions are kept as they are, bit for bit and in their own dtype,
    and so are matrices whose name contains one of the parts in ``exclude``. s is float32.
    A NaN or infinity is an error, or makes the matrix NaN where ``nonfinite`` allows it.
    Reconstruction is float32, the terms added in the order of the singular values, largest first,
    and rounded once to the base's dtype.

    Gargiulo et al., Task Singular Vectors (TSV-C), 2025, arXiv 2412.00081.
    """

    name = "tsv_c"
    formula = "f_t ~ base + U_k diag(s_k) V_k^T of f_t - base = U diag(s) V^T"
    paper = "Gargiulo et al. 2025, arXiv 2412.00081"
