"""Methods of whole matrices by their plain formulas: float64 throughout, full singular values.

All take the task vectors of one matrix, [N, m, n]. Singular values that do not exceed EPSILON times
the largest count as zero, and their vectors are left out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

EPSILON = 2.0**-23


def svd(x: Matrix, floor: float = 0.0) -> tuple[Matrix, Matrix, Matrix]:
    """U, s and V^T without the singular values that count as zero, or reach no ``floor``."""
    u, s, v = np.linalg.svd(x, full_matrices=False)
    kept = s > max(EPSILON * s[0], floor)
    return u[:, kept], s[kept], v[kept]


def polar(x: Matrix) -> Matrix:
    """U V^T."""
    if not x.size:
        return x
    u, _, v = svd(x)
    return u @ v


def float32_sum(deltas: npt.NDArray[np.float32]) -> Matrix:
    """The sum of the task vectors as it is specified: float32, in the order of the experts."""
    total = deltas[0].copy()
    for x in deltas[1:]:
        total += x
    return total.astype(np.float64)


def iso_c(deltas: npt.NDArray[np.float32]) -> Matrix:
    """The sum with all singular values set to their mean."""
    total = float32_sum(deltas)
    return polar(total) * svd(total)[1].sum() / min(total.shape)


def iso_cts_ranks(r: int, fraction: float, n_experts: int) -> tuple[int, int]:
    """Directions of the sum, and of each task."""
    total = round((r - int(r * fraction)) / n_experts) * n_experts
    if total > r:
        total -= n_experts
    return r - total, total // n_experts


def iso_cts(deltas: npt.NDArray[np.float32], fraction: float = 0.8) -> Matrix:
    """The largest directions of the sum and, outside their space, of each task, all alike."""
    r = min(deltas.shape[1:])
    k, d = iso_cts_ranks(r, fraction, len(deltas))
    u, s, v = _cut(*svd(float32_sum(deltas)), k)
    parts = [
        _cut(*svd(x - u @ (u.T @ x), EPSILON * float(np.linalg.norm(x))), d)
        for x in (deltas.astype(np.float64) if d else [])
    ]
    us, ss, vs = zip(*parts, (u, s, v), strict=True)
    mean = np.concatenate(ss).sum() / r
    return mean * polar(np.concatenate(us, 1)) @ polar(np.concatenate(vs))


def tsv_m(deltas: npt.NDArray[np.float32]) -> Matrix:
    """The largest triplets of each task, their vectors made orthogonal over all tasks."""
    k = min(deltas.shape[1:]) // len(deltas)
    us, ss, vs = zip(*(_cut(*svd(x), k) for x in deltas.astype(np.float64)), strict=True)
    u, v = polar(np.concatenate(us, 1)), polar(np.concatenate(vs))
    return (u * np.concatenate(ss)) @ v


def star(deltas: npt.NDArray[np.float32], eta: float = 40.0) -> Matrix:
    """The mean of the tasks cut to eta percent of their nuclear norm, which is then restored."""
    merged = np.zeros(deltas.shape[1:])
    for x in deltas.astype(np.float64):
        u, s, v = svd(x)
        if s.size:
            n = min(int(np.searchsorted(np.cumsum(s), eta / 100 * s.sum())) + 1, s.size)
            merged += (u[:, :n] * s[:n] * (s.sum() / s[:n].sum())) @ v[:n]
    return merged / len(deltas)


def wudi_gradient(deltas: npt.NDArray[np.float32], merged: Matrix, power: int) -> Matrix:
    """Return the gradient of sum_t |(M - x_t) x_t^T|^2 / |x_t|^power at M, without zero tasks."""
    xs = [x for x in deltas.astype(np.float64) if x.any()]
    return sum(
        (2 * (merged - x) @ x.T @ x / np.linalg.norm(x) ** power for x in xs),
        np.zeros(merged.shape),
    )


def wudi(deltas: npt.NDArray[np.float32], power: int, rate: float, steps: int) -> Matrix:
    """Adam on that, from the sum of the tasks."""
    merged = float32_sum(deltas)
    return adam(merged, lambda m: wudi_gradient(deltas, m, power), rate, steps)


def wudi_minimum(deltas: npt.NDArray[np.float32], power: int) -> Matrix:
    """Its minimum of least norm."""
    xs = [x for x in deltas.astype(np.float64) if x.any()]
    if not xs:
        return np.zeros(deltas.shape[1:])
    grams = [x.T @ x / np.linalg.norm(x) ** power for x in xs]
    targets = sum((x @ gram for x, gram in zip(xs, grams, strict=True)), np.zeros(xs[0].shape))
    return targets @ np.linalg.pinv(sum(grams, np.zeros(grams[0].shape)), rcond=EPSILON)


def doge(
    deltas: npt.NDArray[np.float32],
    kept: npt.NDArray[np.bool_],
    coefficient: float = 0.07,
    subspace: int = 6,
    steps: int = 400,
) -> Matrix:
    """The kept entries of the tasks and of one correction of all, each task at the same norm."""
    pairs = [(x, k) for x, k in zip(deltas.astype(np.float64), kept, strict=True) if x.any()]
    correction = np.zeros(deltas.shape[1:])
    if not pairs:
        return correction
    xs = np.stack([x for x, _ in pairs])
    cs = [coefficient / np.linalg.norm(x) for x in xs]
    r = min(deltas.shape[1:])
    bases = [_cut(*svd(x), r // len(deltas))[0] for x in xs]
    stacked = np.concatenate(bases, 1)
    shared = _cut(*svd(stacked), r // subspace)[0] if stacked.size else stacked
    weighted = sum(c * x for c, x in zip(cs, xs, strict=True))

    def gradient(d: Matrix) -> Matrix:
        total = np.zeros(d.shape)
        for x in xs:
            brackets = (x * (x - weighted - sum(cs) * d)).sum(1, keepdims=True)
            total += -2 * sum(cs) * brackets * x
        return total - shared @ (shared.T @ total)

    correction = adam(correction, gradient, 1e-4, steps)
    return sum(
        (c * (x + correction) * k for c, (x, k) in zip(cs, pairs, strict=True)),
        np.zeros(correction.shape),
    )


def adam(x: Matrix, gradient: Callable[[Matrix], Matrix], rate: float, steps: int) -> Matrix:
    """As Kingma and Ba write it, with their betas and epsilon."""
    x = x.copy()
    mean, square = np.zeros(x.shape), np.zeros(x.shape)
    for step in range(1, steps + 1):
        g = gradient(x)
        mean = 0.9 * mean + 0.1 * g
        square = 0.999 * square + 0.001 * g * g
        x -= rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return x


def _cut(u: Matrix, s: Matrix, v: Matrix, k: int) -> tuple[Matrix, Matrix, Matrix]:
    return u[:, :k], s[:k], v[:k]
