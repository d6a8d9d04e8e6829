"""The weighted sum of one tensor and its gradient, by native code on the host."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, TypeAlias

import torch
from torch.autograd.function import once_differentiable

import tallies._core as native

from ..engine.environment import in_float_environment
from ..spec.dtypes import DTYPE_CODES, DTYPE_OF_ARRAY, KERNEL_DTYPES
from .encoded import EncodedDelta
from .steps import block_dots

Delta: TypeAlias = torch.Tensor | EncodedDelta

CODES: Final = {getattr(torch, name): DTYPE_CODES[DTYPE_OF_ARRAY[name]] for name in KERNEL_DTYPES}
"""Native codes of the dtypes that merge."""


def _on_host(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


class WeightedSum(torch.autograd.Function):
    """Merges one tensor; keeps references to the deltas, and copies nothing of them."""

    @staticmethod
    @in_float_environment
    def forward(
        ctx: Any, coefficients: torch.Tensor, base: torch.Tensor, *deltas: Delta
    ) -> torch.Tensor:
        """Return the base plus the weighted sum of the deltas."""
        ctx.save_for_backward(*(one for one in deltas if isinstance(one, torch.Tensor)))
        ctx.encoded = [one if isinstance(one, EncodedDelta) else None for one in deltas]
        ctx.shape, ctx.dtype = coefficients.shape, coefficients.dtype
        factors = coefficients.detach().float().reshape(len(deltas), -1).contiguous()
        return (_sum_on_host if _on_host(base) else _sum_on_device)(factors, base.detach(), deltas)

    @staticmethod
    @once_differentiable
    @in_float_environment
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of the coefficients and of the base; the deltas have none."""
        dense = iter(ctx.saved_tensors)
        deltas = [one or next(dense) for one in ctx.encoded]
        dots = None
        if ctx.needs_input_grad[0]:
            n_blocks = ctx.shape[1:].numel()
            dots_of = _dots_on_host if _on_host(grad) else _dots_on_device
            dots = dots_of(grad, deltas, n_blocks).to(ctx.dtype).reshape(ctx.shape)
        return (dots, grad if ctx.needs_input_grad[1] else None, *(None for _ in deltas))


def _sum_on_host(
    factors: torch.Tensor, base: torch.Tensor, deltas: Sequence[Delta]
) -> torch.Tensor:
    given, out = base.contiguous(), torch.empty(base.shape, dtype=base.dtype, device=base.device)
    rows = _Rows(deltas)
    native.weighted_sum(
        deltas=rows.native,
        n_elements=out.numel(),
        n_blocks=factors.shape[1],
        threads=torch.get_num_threads(),
        base=given.data_ptr(),
        dtype=CODES[base.dtype],
        factors=factors.data_ptr(),
        out=out.data_ptr(),
    )
    return out


def _dots_on_host(grad: torch.Tensor, deltas: Sequence[Delta], n_blocks: int) -> torch.Tensor:
    given, rows = grad.contiguous(), _Rows(deltas)
    dots = torch.empty(len(deltas), n_blocks, dtype=torch.float64, device=grad.device)
    native.block_dots(
        deltas=rows.native,
        n_elements=given.numel(),
        n_blocks=n_blocks,
        threads=torch.get_num_threads(),
        grad=given.data_ptr(),
        dtype=CODES[given.dtype],
        out=dots.data_ptr(),
    )
    return dots


def _sum_on_device(
    factors: torch.Tensor, base: torch.Tensor, deltas: Sequence[Any]
) -> torch.Tensor:
    """Add the terms by torch's own kernels: a fused product and sum would round otherwise."""
    n, n_blocks = base.numel(), factors.shape[1]
    total = base.to(torch.float32, copy=True).reshape(-1)
    if n_blocks > 1:
        ends = torch.arange(n_blocks + 1, device=base.device) * n // n_blocks
        factors = factors.repeat_interleave(ends.diff(), dim=1, output_size=n)
    for factor, delta in zip(factors, deltas, strict=True):
        total += delta.detach().float().reshape(-1) * factor
    return total.to(base.dtype).view(base.shape)


def _dots_on_device(
    grad: torch.Tensor, deltas: Sequence[torch.Tensor], n_blocks: int
) -> torch.Tensor:
    flat, rows = grad.reshape(-1), [delta.detach().reshape(-1) for delta in deltas]
    ends = [k * flat.numel() // n_blocks for k in range(n_blocks + 1)]
    blocks = [slice(*pair) for pair in pairwise(ends)]
    return torch.stack([block_dots(flat[k], [row[k] for row in rows]) for k in blocks], dim=1)


class _Rows:
    """The deltas of one tensor as the native code takes them; keeps their memory alive."""

    def __init__(self, deltas: Sequence[Delta]) -> None:
        self._kept = [
            one if isinstance(one, EncodedDelta) else one.detach().contiguous() for one in deltas
        ]
        self.native = [
            one.native
            if isinstance(one, EncodedDelta)
            else native.Source.plain(values=(-1, one.data_ptr(), CODES[one.dtype]))
            for one in self._kept
        ]
