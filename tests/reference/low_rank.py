"""Low-rank codecs: what is shared, what is factored, and how a task comes back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .dtype import Floats, narrow, widen


def shared_vector(deltas: Sequence[Floats], scale: float, dtype: np.dtype[np.generic]) -> Floats:
    """scale * the in-order sum of the task vectors in float32, as it is stored."""
    total = deltas[0].copy()
    for x in deltas[1:]:
        total = total + x
    return widen(narrow(np.float32(scale) * total, dtype))


def rank(shape: tuple[int, int], fraction: float) -> int:
    """Triplets that are kept of a matrix."""
    return int(min(shape) * fraction)


def best_error(x: npt.NDArray[np.float64], k: int) -> float:
    """Frobenius norm of what no matrix of rank k has of x."""
    return float(np.linalg.norm(np.linalg.svd(x, compute_uv=False)[k:]))


def restore(base: Floats, shared: Floats | None, u: Floats, s: Floats, v: Floats) -> Floats:
    """base + shared + sum of (u_i s_i) v_i, float32 in this order."""
    out = base.copy() if shared is None else base + shared
    weights = u * s
    for i in range(len(s)):
        out = out + weights[:, i : i + 1] * v[i]
    return out
