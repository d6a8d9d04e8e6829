"""Compute singular values, vectors and polar factors from the smaller Gram matrix.

An eigendecomposition of x^T x squares the condition of x: rounding loses singular values below 1e-4
of the largest. A second decomposition takes the directions of those alone, so that singular values
down to the float32 epsilon of the largest have the accuracy that a float32 result can show. Smaller
singular values count as zero: x is float32 data, and directions of rounding errors would differ
from one LAPACK to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..errors import InputError
from .inverse_root import inverse_root, may_have_root

if TYPE_CHECKING:
    import torch

EPSILON: Final = 2.0**-23
"""Singular values of this share of the largest, and smaller ones, count as zero."""

# Share of the largest singular value down to which the Gram matrix itself is accurate enough.
_SEPARATE = 1e-4
# Condition up to which a product with the inverse root in float32 is as good as one in float64.
_FLOAT32_CONDITION = 16.0
# From this many columns on, a sum of shifted inverses is faster than an eigendecomposition.
_SHIFTED = 512
# Elements of the rows that are widened to float64 at a time: 32 MiB.
_BLOCK = 1 << 22
# Columns of a Gram matrix computed together: only the part on and below the diagonal is needed.
_PANEL = 512


def require(who: str) -> Any:
    """Return the module torch.

    Args:
        who: The method or codec that needs torch, for the message.

    Raises:
        InputError: Torch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{who}: needs torch for its linear algebra, and it is not installed; install torch"
        ) from None
    return torch


@dataclass(frozen=True)
class Spectrum:
    """The singular values above zero of a matrix x with at least as many rows as columns."""

    s: torch.Tensor
    """[k], descending, float64."""
    v: torch.Tensor
    """[columns, k]; orthonormal columns."""
    left: torch.Tensor
    """[columns, k]; x @ left has orthonormal columns, the left singular vectors."""


def spectrum(x: torch.Tensor, floor: float = 0.0) -> Spectrum:
    """Return the singular values of x above ``floor`` and above zero, and their vectors.

    Args:
        x: A finite matrix [m, n], m >= n, float32 or float64.
        floor: Lower bound for the singular values.

    Returns:
        Singular values and vectors in float64. The vectors of equal singular values are an
        arbitrary basis of their space.
    """
    import torch

    eigenvalues, vectors = torch.linalg.eigh(_lower_gram(x))
    s = eigenvalues.clamp_(min=0).sqrt_().flip(0)
    v = vectors.flip(1)
    most = float(s[0]) if s.numel() else 0.0
    cut = max(EPSILON * most, floor)
    n_large = int((s > max(_SEPARATE * most, cut)).sum())
    s, large, small = s[:n_large], v[:, :n_large], v[:, n_large:]
    left = large / s
    if small.shape[1] and cut < _SEPARATE * most:
        # Rounding alone gives the small directions a part in the large ones.
        image = _gram_times(x, small)
        small = small - left @ (left.T @ image)
        eigenvalues, vectors = torch.linalg.eigh(_lower_gram(x, right=small))
        rest = eigenvalues.clamp_(min=0).sqrt_().flip(0)
        kept = rest > cut
        rest, small = rest[kept], (small @ vectors.flip(1))[:, kept]
        s, large = torch.cat([s, rest]), torch.cat([large, small], 1)
        left = torch.cat([left, small / rest], 1)
    return Spectrum(s, large, left)


def thin_svd(
    x: torch.Tensor, most: int | None = None, floor: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Decompose x = U diag(s) V^T with the largest singular values.

    Args:
        x: A finite matrix [m, n], float32 or float64.
        most: Upper bound for the number of singular values.
        floor: Lower bound for the singular values.

    Returns:
        U [m, k], s [k] and V^T [k, n] in float64. The singular values descend and are above zero,
        so that a matrix of zeros has none.
    """
    if x.shape[0] < x.shape[1]:
        v, s, u = thin_svd(x.T, most, floor)
        return u.T, s, v.T
    found = spectrum(x, floor)
    s, v, left = found.s[:most], found.v[:, :most], found.left[:, :most]
    return _times(x, left, left.dtype), s, v.T


def polar(x: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the polar factor U V^T of x = U diag(s) V^T, and the sum of the singular values.

    Args:
        x: A finite matrix [m, n], float32 or float64.

    Returns:
        The factor, of the shape and dtype of x: the nearest matrix with orthonormal rows or columns
        where x has full rank, a partial isometry otherwise, zero for a matrix of zeros.
    """
    import torch

    if x.shape[0] < x.shape[1]:
        factor, total = polar(x.T)
        return factor.T, total
    if x.dtype == torch.float32 and x.shape[1] >= _SHIFTED and may_have_root(x):
        gram = _lower_gram(x, torch.float32)
        gram = gram.tril() + gram.tril(-1).T
        root = inverse_root(gram)
        if root is not None:
            return _times(x, root, x.dtype), float((gram * root).sum())
    found = spectrum(x)
    root = found.left @ found.v.T
    s = found.s
    is_full = 0 < s.numel() == x.shape[1]
    well = is_full and float(s[0] / s[-1]) < _FLOAT32_CONDITION
    return _times(x, root.to(x.dtype) if well else root, x.dtype), float(s.sum())


def _times(x: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Multiply x @ right in the dtype of ``right``, a block of rows at a time."""
    import torch

    out = torch.empty(x.shape[0], right.shape[1], dtype=dtype)
    for first, block in _blocks(x):
        out[first : first + len(block)] = block.to(right.dtype) @ right
    return out


def _lower_gram(
    x: torch.Tensor, dtype: torch.dtype | None = None, right: torch.Tensor | None = None
) -> torch.Tensor:
    """Return (x right)^T (x right), or x^T x without ``right``, on and below the diagonal.

    The sum is float64. Products of some thousand rows at a time are in ``dtype``, by default
    float64.
    """
    import torch

    n = x.shape[1] if right is None else right.shape[1]
    gram = torch.zeros(n, n, dtype=torch.float64)
    for _, block in _blocks(x):
        y = block.to(dtype or torch.float64)
        y = y if right is None else y @ right
        for first in range(0, n, _PANEL):
            last = min(first + _PANEL, n)
            gram[first:last, :last] += y[:, first:last].T @ y[:, :last]
    return gram


def _gram_times(x: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return x^T (x right) in float64."""
    import torch

    out = torch.zeros_like(right)
    for _, block in _blocks(x):
        rows = block.double()
        torch.addmm(out, rows.T, rows @ right, out=out)
    return out


def _blocks(x: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    n_rows = max(1, _BLOCK // max(x.shape[1], 1))
    for first in range(0, x.shape[0], n_rows):
        yield first, x[first : first + n_rows]
