"""Spaces in which the products of adapters are small, and merge as in the full one or better.

KnOTS aligns the products D_t = L_t R_t in the left singular vectors U of [D_1 | ... | D_N]: D_t is
U C_t, and the C_t are merged. Core Space takes an orthonormal basis U of all L_t and V of all R_t:
D_t is U M_t V^T, and the small M_t are merged. Both lose nothing of the products.

Stoica et al., KnOTS, 2024, arXiv 2410.19735; Panariello et al., Core Space, 2025, arXiv 2509.17786.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..linalg.spectral import EPSILON
from ..spec.choices import AdapterSpace
from .operands import Factors

if TYPE_CHECKING:
    import numpy as np
    import torch

_KNOTS_FLOOR: Final = 1e-5
"""Singular values of this share of the largest, and smaller ones, are rounding of the factors."""


@dataclass(frozen=True)
class Aligned:
    """One tensor of all adapters in a small space."""

    left: np.ndarray
    """[rows, k], or [matrices, rows, k]: what is merged is multiplied by this from the left."""
    right: np.ndarray | None
    """[l, columns], or a stack: from the right; None where nothing is."""
    parts: tuple[Factors | None, ...]
    """The factors of each adapter in the space; None for a product of zero."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what is merged."""
        columns = next(part[1].shape[-1] for part in self.parts if part is not None)
        return (*self.left.shape[:-2], self.left.shape[-1], columns)

    def whole(self, merged: np.ndarray) -> Factors:
        """Return the factors of a merged tensor outside of the space."""
        return self.left, merged if self.right is None else merged @ self.right


def align(space: AdapterSpace, factors: Sequence[Factors | None]) -> Aligned:
    """Return the products of a tensor in a small space.

    Args:
        space: ``KNOTS`` or ``CORE``.
        factors: The factors of each adapter, float64; None where it leaves the tensor alone.
    """
    import numpy as np

    given = [one for one in factors if one is not None]
    if given[0][0].ndim == 2:
        return _ALIGN[space](factors)
    alone = [
        _ALIGN[space]([one and (one[0][i], one[1][i]) for one in factors])
        for i in range(len(given[0][0]))
    ]

    def stacked(matrices: Sequence[np.ndarray]) -> np.ndarray:
        # The matrices of a stack may have fewer directions than others: zeros fill them up.
        rows, columns = (max(one.shape[axis] for one in matrices) for axis in (0, 1))
        out = np.zeros((len(matrices), rows, columns))
        for whole, one in zip(out, matrices, strict=True):
            whole[: one.shape[0], : one.shape[1]] = one
        return out

    parts: list[Factors | None] = []
    for number, one in enumerate(factors):
        own = [found.parts[number] for found in alone]
        pairs = [pair for pair in own if pair is not None]
        parts.append(
            None
            if one is None
            else (stacked([p[0] for p in pairs]), stacked([p[1] for p in pairs]))
        )
    rights = [found.right for found in alone if found.right is not None]
    return Aligned(
        stacked([found.left for found in alone]), stacked(rights) if rights else None, tuple(parts)
    )


def _knots(factors: Sequence[Factors | None]) -> Aligned:
    """Align products in the left singular vectors of all of them side by side."""
    import torch

    given = [
        (torch.from_numpy(left), torch.from_numpy(right)) for left, right in filter(None, factors)
    ]
    basis, small = torch.linalg.qr(torch.cat([left for left, _ in given], 1))
    parts = small.split([left.shape[1] for left, _ in given], 1)
    # R_t = S_t^T P_t^T with orthonormal P_t: the singular vectors are those of all T_t S_t^T.
    cores = [
        part @ torch.linalg.qr(right.T, mode="r")[1].T
        for part, (_, right) in zip(parts, given, strict=True)
    ]
    u, s, _ = torch.linalg.svd(torch.cat(cores, 1), full_matrices=False)
    kept = max(1, int((s > _KNOTS_FLOOR * s[0]).sum()))
    u = _signed(u[:, :kept])
    turned = iter([(u.T @ part).numpy() for part in parts])
    rights = iter([right.numpy() for _, right in given])
    return Aligned(
        (basis @ u).numpy(),
        None,
        tuple(None if one is None else (next(turned), next(rights)) for one in factors),
    )


def _core(factors: Sequence[Factors | None]) -> Aligned:
    """Express products in orthonormal bases of all left and of all right factors."""
    import torch

    given = [
        (torch.from_numpy(left), torch.from_numpy(right)) for left, right in filter(None, factors)
    ]
    u = _basis(torch.cat([left for left, _ in given], 1))
    v = _basis(torch.cat([right for _, right in given]).T)
    parts = iter([((u.T @ left).numpy(), (right @ v).numpy()) for left, right in given])
    return Aligned(
        u.numpy(), v.T.numpy(), tuple(None if one is None else next(parts) for one in factors)
    )


def _basis(x: torch.Tensor) -> torch.Tensor:
    """Return the left singular vectors of a tall matrix, without those of rounding errors."""
    import torch

    q, small = torch.linalg.qr(x)
    u, s, _ = torch.linalg.svd(small, full_matrices=False)
    kept = max(1, int((s > EPSILON * s[0]).sum()))
    return torch.mm(q, _signed(u[:, :kept]))


def _signed(u: torch.Tensor) -> torch.Tensor:
    """Make the largest entry of each column positive, so that the signs are not LAPACK's."""
    import torch

    largest = u.gather(0, u.abs().argmax(0, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0).to(u.dtype)
    return torch.mul(u, signs)


_ALIGN = {AdapterSpace.KNOTS: _knots, AdapterSpace.CORE: _core}
