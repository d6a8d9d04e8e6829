"""Sums of low-rank products as one product, exact or of the best lower rank; no matrix is formed.

With L R = (Q_L T_L)(Q_R T_R)^T the singular values of L R are those of the small T_L T_R^T.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._core import narrow, widen
from ..engine.arrays import address_of
from ..linalg.spectral import EPSILON
from ..spec.dtypes import DTYPE_CODES, DTYPES
from .operands import Factors

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Combined:
    """A matrix, or a stack of matrices, as a product of two factors."""

    left: np.ndarray
    """[rows, rank], or [matrices, rows, rank]; float64."""
    right: np.ndarray
    """[rank, columns], or [matrices, rank, columns]; float64."""
    norm: float
    """The Frobenius norm of what the product stands for."""
    error: float
    """The norm of what the product leaves out, as a share of ``norm``; 0 where that is 0."""

    @property
    def rank(self) -> int:
        """The rank of the product."""
        return int(self.left.shape[-1])


def concatenated(terms: Sequence[tuple[float, Factors]]) -> Factors:
    """Return the factors whose product is the sum of weighted products.

    Args:
        terms: A weight and the factors of each product.

    >>> import numpy as np
    >>> left, right = concatenated([(2.0, (np.eye(2), np.eye(2))), (1.0, (np.eye(2), np.eye(2)))])
    >>> left @ right
    array([[3., 0.],
           [0., 3.]])
    """
    import numpy as np

    lefts = [weight * left for weight, (left, _) in terms]
    return np.concatenate(lefts, -1), np.concatenate([right for _, (_, right) in terms], -2)


def combine(factors: Factors, rank: int | None) -> Combined:
    """Return a product as it is, or the nearest one of a lower rank.

    Args:
        factors: The factors of a matrix, or of each matrix of a stack.
        rank: The most rank; None for any.

    Returns:
        A product of at most ``rank``; singular values of rounding errors have no part in a lowered
        one. The matrices of a stack have one rank.
    """
    import numpy as np

    left, right = factors
    stacked = left.ndim == 3
    pairs = list(zip(left, right, strict=True)) if stacked else [(left, right)]
    if rank is None or left.shape[-1] <= rank:
        norm = math.hypot(*(product_norm(*pair) for pair in pairs))
        return Combined(left, right, norm, 0.0)
    if not all(np.isfinite(part).all() for part in factors):
        # There are no singular vectors: the product is NaN as a whole.
        nans = [np.full_like(left[..., :1], np.nan), np.full_like(right[..., :1, :], np.nan)]
        return Combined(nans[0], nans[1], math.nan, math.nan)
    found = [singular(*pair) for pair in pairs]
    most = max(int((one.s > EPSILON * one.s[0]).sum()) if len(one.s) else 0 for one in found)
    kept = max(1, min(rank, most))
    norm = math.hypot(*(float(one.s.norm()) for one in found))
    lost = math.hypot(*(float(one.s[kept:].norm()) for one in found))
    parts = [one.factors(kept) for one in found]
    made = [np.stack([part[side] for part in parts]) for side in (0, 1)]
    if not stacked:
        made = [one[0] for one in made]
    return Combined(made[0], made[1], norm, lost / norm if norm else 0.0)


@dataclass(frozen=True)
class Singular:
    """The singular triplets of a product of factors, float64."""

    u: torch.Tensor
    s: torch.Tensor
    v: torch.Tensor
    """[k, columns]; the largest entry of each row is positive."""

    def factors(self, rank: int) -> Factors:
        """Return the factors of the first triplets; both get the root of each singular value."""
        root = self.s[:rank].sqrt()
        return (self.u[:, :rank] * root).numpy(), (root[:, None] * self.v[:rank]).numpy()


def singular(left: np.ndarray, right: np.ndarray) -> Singular:
    """Return the singular triplets of left @ right, of which the matrix is not formed.

    Args:
        left: [rows, rank], float64.
        right: [rank, columns], float64.

    >>> import numpy as np
    >>> singular(np.eye(3)[:, :2], np.diag([3.0, 4.0])).s
    tensor([4., 3.], dtype=torch.float64)
    """
    import torch

    q_left, t_left = torch.linalg.qr(torch.from_numpy(left))
    q_right, t_right = torch.linalg.qr(torch.from_numpy(right).T)
    u, s, v = torch.linalg.svd(t_left @ t_right.T, full_matrices=False)
    u, v = q_left @ u, v @ q_right.T
    if v.numel():
        largest = v.gather(1, v.abs().argmax(1, keepdim=True))
        sign = torch.where(largest < 0, -1.0, 1.0).to(v.dtype)
        u, v = u * sign.T, v * sign
    return Singular(u, s, v)


def product_norm(left: np.ndarray, right: np.ndarray) -> float:
    """Return the Frobenius norm of left @ right, of which the matrix is not formed."""
    import torch

    t_left = torch.linalg.qr(torch.from_numpy(left), mode="r")[1]
    t_right = torch.linalg.qr(torch.from_numpy(right).T, mode="r")[1]
    return float((t_left @ t_right.T).norm())


def stored_error(exact: Factors, stored: Factors, norm: float) -> float:
    """Return the norm of the difference of two products, as a share of ``norm``; 0 where it is 0.

    Args:
        exact: The factors of a matrix, or of a stack.
        stored: Factors as a file holds them, in float64.
        norm: The norm of the exact product.
    """
    import numpy as np

    if not norm:
        return 0.0
    left = np.concatenate([exact[0], -stored[0]], -1)
    right = np.concatenate([exact[1], stored[1]], -2)
    pairs = list(zip(left, right, strict=True)) if left.ndim == 3 else [(left, right)]
    return math.hypot(*(product_norm(*pair) for pair in pairs)) / norm


def rounded(found: Combined, dtype: str) -> Factors:
    """Return factors as a file holds them in a dtype, in float64."""
    import numpy as np

    made = []
    for values in (found.left, found.right):
        floats = np.ascontiguousarray(values, np.float32)
        if dtype != "F32":
            data = bytearray(floats.size * DTYPES[dtype])
            narrow(floats.ctypes.data, address_of(data), DTYPE_CODES[dtype], floats.size)
            widen(address_of(data), DTYPE_CODES[dtype], floats.ctypes.data, floats.size)
        made.append(floats.astype(np.float64))
    return made[0], made[1]
