"""CoPA, as the authors' code computes it, for the factors of one weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def _trim(x: Matrix, share: float) -> Matrix:
    smallest = np.sort(np.abs(x).ravel())
    k = int((1 - share) * x.size)
    return x if k == 0 else np.where(np.abs(x) >= smallest[k - 1], x, 0)


def copa(
    pairs: Sequence[tuple[Matrix, Matrix]], density: float, top: float, fuse: float
) -> tuple[Matrix, Matrix]:
    """Return A [rank, in] and B [out, rank] of pairs (A_t, B_t)."""
    total_a, total_b, weights = 0.0, 0.0, 0.0
    for a, b in pairs:
        kept = _trim(a, density)
        score = np.ones(len(a))
        for i, (row, left) in enumerate(zip(a, kept, strict=True)):
            if np.abs(left).sum() > 0:
                score[i] = np.abs(row).sum() / np.abs(left).sum()
        floor = np.sort(score)[min(int((1 - top) * len(score)), len(score) - 1)]
        score = np.maximum(score, floor)
        total_a = total_a + kept
        total_b = total_b + _trim(b, density) * score
        weights = weights + score
    return fuse * total_a, fuse * total_b / weights
