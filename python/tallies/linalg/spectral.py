"""Singular values, vectors and polar factors of whole matrices, from the smaller Gram matrix.

An eigendecomposition of x^T x squares the condition of x: what is smaller than 1e-4 of the largest
singular value is lost in rounding. So those directions are set apart and looked at once more, by
themselves; with that, singular values down to the float32 epsilon of the largest have the accuracy
that a float32 result can show. Smaller ones count as zero: x is float32 data, and directions that
are rounding errors would differ from one LAPACK to the next.
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
"""Singular values that are not above this share of the largest count as zero."""

# Share of the largest singular value down to which the Gram matrix itself is accurate enough.
_SEPARATE = 1e-4
# Condition up to which a product with the inverse root in float32 is as good as one in float64.
_FLOAT32_CONDITION = 16.0
# Columns from which a sum of shifted inverses is faster than an eigendecomposition.
_SHIFTED = 512
# Elements of the rows that are widened to float64 at a time: 32 MiB.
_BLOCK = 1 << 22
# Columns of a Gram matrix computed together: only what is on or below its diagonal is needed.
_PANEL = 512


def require(who: str) -> Any:
    """The module torch; InputError where it is not installed. ``who`` needs it."""
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{who}: needs torch for its linear algebra, and it is not installed; install torch"
        ) from None
    return torch


@dataclass(frozen=True)
class Spectrum:
    """The singular values above zero of a matrix x with as many rows as columns, or more."""

    s: torch.Tensor
    """[k], descending, float64."""
    v: torch.Tensor
    """[columns, k]; orthonormal columns."""
    left: torch.Tensor
    """[columns, k]; x @ left has orthonormal columns, the left singular vectors."""


def spectrum(x: torch.Tensor, floor: float = 0.0) -> Spectrum:
    """Singular values of x [m, n], m >= n, above ``floor`` and above zero, and their vectors.

    x is float32 or float64 and finite. Vectors of equal singular values are any basis of their
    space.
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
        # Without their part in the large directions, which is theirs by rounding alone.
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
    """x = U diag(s) V^T with the ``most`` largest singular values; U, s and V^T in float64.

    Only singular values above ``floor`` and above zero are there, descending, so there may be
    fewer, and none for a matrix of zeros.
    """
    if x.shape[0] < x.shape[1]:
        v, s, u = thin_svd(x.T, most, floor)
        return u.T, s, v.T
    found = spectrum(x, floor)
    s, v, left = found.s[:most], found.v[:, :most], found.left[:, :most]
    return _times(x, left, left.dtype), s, v.T


def polar(x: torch.Tensor) -> tuple[torch.Tensor, float]:
    """U V^T over the singular values above zero, and their sum; x = U diag(s) V^T.

    The factor has the dtype of x. It is the matrix with orthonormal rows or columns nearest to x
    when x has full rank, a partial isometry otherwise, and zero for a matrix of zeros.
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
    """x @ right, computed in the dtype of ``right`` a block of rows at a time."""
    import torch

    out = torch.empty(x.shape[0], right.shape[1], dtype=dtype)
    for first, block in _blocks(x):
        out[first : first + len(block)] = block.to(right.dtype) @ right
    return out


def _lower_gram(
    x: torch.Tensor, dtype: torch.dtype | None = None, right: torch.Tensor | None = None
) -> torch.Tensor:
    """(x right)^T (x right) on and below the diagonal, float64; without ``right``, x^T x.

    In ``dtype``, float64 without one, are the products of some thousand rows at a time.
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
    """x^T (x right) in float64."""
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
