"""Task vectors of matrices, merges of them, and bounds for the results."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tallies import merge_state_dicts, methods
from tallies.methods._matrix import MatrixMethod

Array = npt.NDArray[np.float32]

MATRIX_METHODS = [name for name in methods.names() if issubclass(methods.get(name), MatrixMethod)]

BOUND = 2.0**-17
"""Frobenius norm of the error over that of the result: what the methods are held to."""


@st.composite
def task_matrices(draw: st.DrawFn, max_experts: int = 4) -> Array:
    """Task vectors of one matrix: smooth, of low rank, integers, empty rows, zeros, multiples."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    m, n = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    found: list[npt.NDArray[np.float64]] = []
    for _ in range(draw(st.integers(1, max_experts))):
        kind = draw(st.sampled_from(["smooth", "low", "integers", "rows", "zero", "copy"]))
        x = rng.standard_normal((m, n)) * draw(st.sampled_from([1.0, 1e-3, 30.0]))
        if kind == "low":
            rank = draw(st.integers(1, 3))
            x = rng.integers(-3, 4, (m, rank)) @ rng.integers(-3, 4, (rank, n)) / 8
        elif kind == "integers":
            x = rng.integers(-3, 4, (m, n)) / 4
        elif kind == "rows":
            x[rng.random(m) < 0.7] = 0
        elif kind == "zero":
            x[:] = 0
        elif kind == "copy" and found:
            x = found[-1] * draw(st.sampled_from([1.0, -1.0, 2.0]))
        found.append(x)
    return np.stack(found).astype(np.float32)


def merged(deltas: Array, method: str, **parameters: Any) -> npt.NDArray[np.float64]:
    """Return the merged task vector, by way of a base of zeros."""
    base = {"w": np.zeros(deltas.shape[1:], np.float32)}
    experts = [{"w": x} for x in deltas]
    found: Array = merge_state_dicts(base, experts, method=method, **parameters)["w"]
    return found.astype(np.float64)


def assert_near(
    found: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    bound: float = BOUND,
    deltas: npt.NDArray[Any] | None = None,
) -> None:
    """Assert an error of at most ``bound`` of the result, or of 2^-20 of the ``deltas``.

    Task vectors that cancel leave a result of rounding in float64.
    """
    error, size = np.linalg.norm(found - expected), np.linalg.norm(expected)
    size = max(size, 0 if deltas is None else 2.0**-20 * np.linalg.norm(deltas))
    assert error <= bound * size, f"error {error:g} of {size:g}"


def is_cut_clearly(x: npt.NDArray[Any], k: int) -> bool:
    """Return whether rounding cannot change the k largest singular values, or those of zero."""
    s = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    clear = k >= s.size or k == 0 or s[k - 1] - s[k] > 1e-2 * s[0] or s[k - 1] < 1e-9 * s[0]
    return bool(clear) and has_clear_rank(x)


def has_clear_rank(x: npt.NDArray[Any]) -> bool:
    """Return whether every singular value is zero in float64 or well above the rank's limit."""
    if not x.size:
        return True
    s = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    return not ((s > 1e-12 * s[0]) & (s < 1e-4 * s[0])).any()
