"""Compute G^{-1/2} of a well-conditioned Gram matrix, as a short sum of shifted inverses.

x^{-1/2} is 2/pi times the integral of 1 / (t^2 + x) over t from 0 on. With t = sqrt(low) sc(u) the
integrand is periodic in u, so that midpoints converge exponentially: float32 takes 4 terms for a
condition of 9, 6 for 64. Each term is a Cholesky factorisation and products, all in float32.

Hale, Higham and Trefethen, Computing A^alpha, log(A), and Related Matrix Functions by Contour
Integrals, 2008.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

# Shifted inverses in float32 are accurate enough up to this condition of the Gram matrix.
_CONDITION: Final = 64.0
# Mean of the diagonal above which no product in float32 that counts has been lost.
_LEAST: Final = 2.0**-80
# Largest error of the sum, as a share of the root: eight times the float32 epsilon.
_TOLERANCE: Final = 2.0**-20
# Steps of Lanczos, and factors from its extreme values to bounds of the extreme eigenvalues.
_STEPS: Final = 24
_BELOW, _ABOVE = 0.8, 1.05
# Share of a vector that is rounding.
_ROUNDING: Final = 1e-5
# Random vectors that test the root, and the largest error on them, as a share: a hundredth of the
# error from one wrong direction of 4096.
_N_PROBES: Final = 8
_PROBE_ERROR: Final = 1e-4
# Columns that show whether a matrix is hopeless, for a hundredth of the work that they save.
_COLUMNS: Final = 256
# From this order on, an inverse is put together of inverses of half the order, by products.
_SPLIT: Final = 512


def may_have_root(x: torch.Tensor) -> bool:
    """Return whether the Gram matrix of x may be well-conditioned enough.

    The Gram matrix of a random matrix is well-conditioned with two rows for each column. The
    eigenvalues of the Gram matrix of some columns lie between those of the whole Gram matrix, so
    the whole one is conditioned no better.
    """
    import torch

    if x.shape[0] < 2 * x.shape[1]:
        return False
    some = x[:, :: max(1, x.shape[1] // _COLUMNS)].double()
    values = torch.linalg.eigvalsh(some.T @ some)
    return bool(_CONDITION * values[0] > values[-1])


def inverse_root(gram: torch.Tensor) -> torch.Tensor | None:
    """Return G^{-1/2}, float32 [n, n], or None.

    Args:
        gram: A symmetric G [n, n], float64, which is read whole.

    Returns:
        The root; None where G is not positive definite with a condition of at most 64, and where G
        is so small or large that underflow or overflow in float32 may have made it. The condition
        is an estimate; random vectors test the root.
    """
    import torch

    unit = float(gram.diagonal().mean())
    if not _LEAST < unit < math.inf:
        return None
    g = (gram / unit).float()
    low, high = _extremes(g)
    if not _CONDITION * low > high:
        return None
    root = torch.zeros_like(g)
    diagonal, before = g.diagonal(), 0.0
    for shift, weight in terms(_BELOW * low, _ABOVE * high):
        diagonal += shift - before
        before = shift
        root.add_(_inverse(g), alpha=weight)
    root /= math.sqrt(unit)
    probes = _random(len(g), _N_PROBES).double()
    wide = root.double()
    error = wide @ (gram @ (wide @ probes)) - probes
    return root if float(error.norm() / probes.norm()) < _PROBE_ERROR else None


def terms(low: float, high: float) -> list[tuple[float, float]]:
    """Return the fewest (s, w) for which sum w / (s + x) is x^{-1/2} from ``low`` to ``high``."""
    grid = [low * (high / low) ** (i / 64) for i in range(65)]
    n = 1
    while True:
        found = _midpoints(low, high, n)
        sums = (sum(w / (s + x) for s, w in found) for x in grid)
        if all(abs(y * math.sqrt(x) - 1) < _TOLERANCE for x, y in zip(grid, sums, strict=True)):
            return found
        n += 1


def _midpoints(low: float, high: float, n: int) -> list[tuple[float, float]]:
    """Return the (s, w) of the n midpoints."""
    # Jacobi's functions by the arithmetic-geometric mean, which converges quadratically.
    means, gaps = [1.0], [math.sqrt(1 - low / high)]
    other = math.sqrt(low / high)
    while gaps[-1] > 1e-9:
        mean, gap = (means[-1] + other) / 2, (means[-1] - other) / 2
        other = math.sqrt(means[-1] * other)
        means.append(mean)
        gaps.append(gap)
    quarter = math.pi / 2 / means[-1]
    found = []
    for j in range(n):
        angle = 2.0 ** (len(means) - 1) * means[-1] * quarter * (j + 0.5) / n
        for mean, gap in zip(means[:0:-1], gaps[:0:-1], strict=True):
            angle = (angle + math.asin(gap / mean * math.sin(angle))) / 2
        sn, cn = math.sin(angle), math.cos(angle)
        dn = math.sqrt(1 - (gaps[0] * sn) ** 2)
        shift = low * (sn / cn) ** 2
        found.append((shift, 2 / math.pi * math.sqrt(low) * quarter / n * dn / cn**2))
    return found


def _inverse(a: torch.Tensor) -> torch.Tensor:
    """Invert a symmetric positive definite matrix; only the lower part is read."""
    import torch

    n = len(a)
    if n <= _SPLIT:
        return torch.cholesky_inverse(torch.linalg.cholesky(a))
    half = n // 2
    first = _inverse(a[:half, :half])
    across = a[half:, :half] @ first
    second = _inverse(torch.addmm(a[half:, half:], across, a[half:, :half].T, alpha=-1))
    both = second @ across
    out = torch.empty_like(a)
    torch.addmm(first, across.T, both, out=out[:half, :half])
    out[half:, :half] = -both
    out[:half, half:] = -both.T
    out[half:, half:] = second
    return out


def _extremes(g: torch.Tensor) -> tuple[float, float]:
    """Estimate the smallest and the largest eigenvalue, from within, by Lanczos."""
    import torch

    basis: list[torch.Tensor] = []
    images: list[torch.Tensor] = []
    vector = _random(len(g), 1)[:, 0]
    while len(basis) < min(_STEPS, len(g)):
        size = float(vector.norm())
        # Twice, because once leaves rounding that grows from step to step.
        for _ in range(2 if basis else 0):
            known = torch.stack(basis)
            vector = vector - known.T @ (known @ vector)
        length = float(vector.norm())
        # The vectors so far span all that comes from the first one.
        if not length > _ROUNDING * size:
            break
        basis.append(vector / length)
        images.append(g @ basis[-1])
        vector = images[-1]
    values = torch.linalg.eigvalsh((torch.stack(basis) @ torch.stack(images).T).double())
    return float(values[0]), float(values[-1])


def _random(n_rows: int, n_columns: int) -> torch.Tensor:
    import torch

    return torch.randn(n_rows, n_columns, generator=torch.Generator().manual_seed(0))
