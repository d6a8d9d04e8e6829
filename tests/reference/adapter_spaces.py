"""The small spaces in which adapters are merged, by singular vectors of whole matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Matrices = Sequence[npt.NDArray[np.float64]]
Merge = Callable[[Matrices], npt.NDArray[np.float64]]


def _vectors(x: npt.NDArray[np.float64], floor: float) -> npt.NDArray[np.float64]:
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    return u[:, s > floor * s[0]]


def knots(deltas: Matrices, merge: Merge) -> npt.NDArray[np.float64]:
    """Merge U^T x_t, with U the left singular vectors of all task vectors side by side."""
    u = _vectors(np.concatenate(deltas, 1), 1e-5)
    return u @ merge([u.T @ delta for delta in deltas])


def core(lefts: Matrices, rights: Matrices, merge: Merge) -> npt.NDArray[np.float64]:
    """Merge U^T L_t R_t V, with bases U of all left factors and V of all right ones."""
    u = _vectors(np.concatenate(lefts, 1), 2.0**-23)
    v = _vectors(np.concatenate(rights).T, 2.0**-23)
    cores = [u.T @ left @ right @ v for left, right in zip(lefts, rights, strict=True)]
    return u @ merge(cores) @ v.T
