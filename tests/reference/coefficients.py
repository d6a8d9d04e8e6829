"""Methods that are linear combinations, as their papers and authors say them, in float64.

Each takes vectors [N, n] (weights or task vectors) and returns one vector, without the base.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .dtype import ieee

Doubles = npt.NDArray[np.float64]


def unit(x: Doubles) -> Doubles:
    """x / |x|; a vector of zero stays one."""
    size = float(np.linalg.norm(x))
    return x / size if size > 0 else x


def metagpt(x: Doubles) -> Doubles:
    """sum_t |x_t|^2 / sum_s |x_s|^2 * x_t; zero if all are."""
    squares = (x**2).sum(axis=1)
    return squares @ x / (squares.sum() or 1.0)


def model_stock(x: Doubles, average: str = "cosines", least: float = 0, more: float = 0) -> Doubles:
    """N c / (1 + (N - 1) c) * mean of x_t, c the mean cosine of pairs or that of the mean angle.

    A cosine's divisor is raised to `least` or by `more`. Zero where 1 + (N - 1) c is nearly zero.
    """
    n = len(x)
    cosines = []
    for i in range(n):
        for j in range(i):
            size = max(np.linalg.norm(x[i]) * np.linalg.norm(x[j]), least) + more
            cosines.append(np.clip(x[i] @ x[j] / size, -1, 1) if size else 0.0)
    c = np.mean(cosines) if average == "cosines" else np.cos(np.mean(np.arccos(cosines)))
    ratio = n * c / (1 + (n - 1) * c) if abs(1 + (n - 1) * c) >= 1e-6 else 0.0
    return np.asarray(ratio * x.mean(axis=0))


def slerp(x: Doubles, t: float, line: float = 0.9995) -> Doubles:
    """From x_0 to x_1 along the arc; on the straight line where |cosine| > `line`."""
    cosine = np.clip(unit(x[0]) @ unit(x[1]), -1, 1)
    if abs(cosine) > line:
        return np.asarray((1 - t) * x[0] + t * x[1])
    angle = np.arccos(cosine)
    return np.asarray((np.sin((1 - t) * angle) * x[0] + np.sin(t * angle) * x[1]) / np.sin(angle))


def nuslerp(x: Doubles, weights: Sequence[float]) -> Doubles:
    """`slerp` by the second weight's share, straight only for parallel vectors."""
    total = sum(weights)
    t = weights[1] / total if abs(total) >= 1e-6 else 0.5
    return slerp(x, t, line=1 - 1e-15)


@ieee
def multislerp(x: Doubles, weights: Sequence[float]) -> Doubles:
    """With the step in the tangent space, as it was published; weights are divided by their sum."""
    a = np.array(weights) / sum(weights)
    units = np.array([unit(one) for one in x])
    mean = unit(a @ units)
    tangent = a @ (units - np.outer(units @ mean, mean))
    size = np.linalg.norm(tangent) + 1e-8
    moved = mean * np.cos(size) + tangent * np.sin(size) / size
    return np.asarray(moved * (a @ np.linalg.norm(x, axis=1)))


def karcher(x: Doubles, max_iter: int = 10, tol: float = 1e-5) -> Doubles:
    """By moves of whole vectors, as it was published."""
    norms = np.linalg.norm(x, axis=1)
    units = [one / norm for one, norm in zip(x, norms, strict=True) if norm > tol]
    if not units:
        return np.zeros_like(x[0])
    mean = np.mean(units, axis=0)
    mean = unit(mean) if np.linalg.norm(mean) >= tol else units[0]
    for _ in range(max_iter):
        move = np.zeros_like(mean)
        for one in units:
            cosine = np.clip(mean @ one, -1, 1)
            angle = np.arccos(cosine)
            if tol <= angle <= np.pi - tol:
                move += angle / np.sin(angle) * (one - cosine * mean) / len(units)
        length = np.linalg.norm(move)
        if length < tol:
            break
        mean = unit(np.cos(length) * mean + np.sin(length) * unit(move))
    return np.asarray(mean * norms.mean())


@ieee
def codiemb(x: Doubles, norm: str = "l2", exponent: float = 1.0, prefer: str = "larger") -> Doubles:
    """sum_t w_t x_t, w_t in proportion to |x_t|^exponent, or to its inverse."""
    distances = np.linalg.norm(x, ord=1 if norm == "l1" else 2, axis=1)
    if not distances.any():
        return np.zeros_like(x[0])
    powers = distances ** (exponent if prefer == "larger" else -exponent)
    powers = np.isinf(powers).astype(float) if np.isinf(powers).any() else powers
    return np.asarray(powers @ x / powers.sum())
