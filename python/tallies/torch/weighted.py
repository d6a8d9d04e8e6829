"""``weighted_merge``: a base and weighted task vectors, differentiable in the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias, overload

import torch
from torch.autograd.function import once_differentiable

import tallies._core as native

from ..errors import InputError
from ..messages import show, unknown
from ..spec.dtypes import DTYPE_CODES, DTYPE_OF_ARRAY, KERNEL_DTYPES
from . import ops
from .encoded import EncodedDelta
from .functions import block_dots

Delta: TypeAlias = torch.Tensor | EncodedDelta
Tensors: TypeAlias = Mapping[str, torch.Tensor]
Deltas: TypeAlias = Mapping[str, torch.Tensor] | Mapping[str, EncodedDelta] | Mapping[str, Delta]

_CODES = {getattr(torch, name): DTYPE_CODES[DTYPE_OF_ARRAY[name]] for name in KERNEL_DTYPES}


@overload
def weighted_merge(
    base: torch.Tensor, deltas: Sequence[Delta], coefficients: torch.Tensor
) -> torch.Tensor: ...
@overload
def weighted_merge(
    base: Tensors, deltas: Sequence[Deltas], coefficients: torch.Tensor
) -> dict[str, torch.Tensor]: ...
def weighted_merge(
    base: torch.Tensor | Tensors,
    deltas: Sequence[Delta] | Sequence[Deltas],
    coefficients: torch.Tensor,
) -> torch.Tensor | dict[str, torch.Tensor]:
    """base + sum over the tasks t of c_t * delta_t, added to the base from the first to the last.

    Every product and sum is rounded in float32, the result once to the base's dtype. ``base`` is a
    tensor or a dict of them, each of ``deltas`` the same; dtypes are float32, float16 or bfloat16,
    mixed freely. What ``store_deltas`` returns is as good as tensors: it is decoded a few
    thousand elements at a time, and the results have the bits that its ``dense()`` would give.
    The deltas have one set of names; tensors of the base that they lack are returned as they are.

    ``coefficients`` are float32 or float64: [T], one per task; [T, n], one per task and tensor,
    whose columns are the tensors of the deltas in the order of the base; or [T, n, K], one per
    task, tensor and block. Rounded to float32. Block k of a tensor with P elements, flattened, is
    those from floor(k P / K) to floor((k + 1) P / K): whole rows, or heads, where K divides the
    first dimension. With fewer elements than blocks some are empty, and their gradient is 0.

    The gradient of a coefficient is the sum of grad * delta_t over its elements: each product
    exact, the sum in float64, in an order that does not depend on the number of threads, which is
    torch's. Nothing of a tensor's size is allocated for a task whose delta is contiguous. The
    base gets the gradient as it is, the deltas get none. A second derivative is not defined.

    A tensor and its deltas are on the CPU or on one CUDA device, the coefficients anywhere. On a
    device the deltas are dense, and each takes a temporary of its size in float32; the merge has
    the same bits but for the payloads of NaN, and so has the gradient of a coefficient for a
    whole tensor, while that for one of several blocks is summed in another order, just as fixed.
    None of that has been run on a device yet.

    Zeros, NaN and infinities count as IEEE 754 has it, so that 0 * infinity is NaN. Inputs are
    never changed.

    InputError names the argument and the tensor whose name, shape, dtype or device does not fit.

    Blocks are those of Zhang et al., aTLAS, 2024, arXiv 2407.02880, but for that the paper deals
    the elements out at random: stretches need no memory, and have a meaning.

    >>> c = torch.tensor([0.5, 2.0], requires_grad=True)
    >>> merged = weighted_merge(torch.ones(2), [torch.ones(2), torch.tensor([1.0, 3.0])], c)
    >>> merged.detach()
    tensor([3.5000, 7.5000])
    >>> merged.sum().backward()
    >>> c.grad
    tensor([2., 4.])
    """
    if isinstance(base, torch.Tensor):
        rows = [_one(f"deltas[{i}]", delta) for i, delta in enumerate(_rows(deltas))]
        return _merge({"": base}, rows, coefficients)[""]
    return _merge(
        base, [_dict(f"deltas[{i}]", d) for i, d in enumerate(_rows(deltas))], coefficients
    )


def merged_names(base: Tensors, deltas: Sequence[Deltas]) -> list[str]:
    """The names of the tensors that the deltas have, in the order of the base.

    InputError for a name that the base, or one of the deltas, lacks.
    """
    for i, delta in enumerate(deltas):
        for name in delta:
            if name not in base:
                raise InputError(f"deltas[{i}]: tensor {unknown(name, base)}")
        for name in sorted(deltas[0].keys() ^ delta.keys()):
            lacking = i if name in deltas[0] else 0
            raise InputError(
                f"deltas[{lacking}]: lacks tensor {show(name)}, expected one set of names; add "
                "zeros, or leave the tensor out of all"
            )
    return [name for name in base if name in deltas[0]]


def _merge(
    base: Tensors, deltas: Sequence[Deltas], coefficients: torch.Tensor
) -> dict[str, torch.Tensor]:
    names = merged_names(base, deltas)
    for name in names:
        _check_tensor(_label("base", name), base[name])
        _check_place(_label("base", name), base[name])
        for i, delta in enumerate(deltas):
            where = _label(f"deltas[{i}]", name)
            _check_delta(where, delta[name], base[name].device)
            if delta[name].shape != base[name].shape:
                raise InputError(
                    f"{where}: found shape {list(delta[name].shape)}, expected the base's, "
                    f"{list(base[name].shape)}"
                )
    columns = _columns(coefficients, len(deltas), len(names))
    merged = dict(base)
    for name, column in zip(names, columns, strict=True):
        rows = [delta[name] for delta in deltas]
        there = column.to(base[name].device)
        merged[name] = _WeightedSum.apply(there, base[name], *rows)  # type: ignore[no-untyped-call]
    return merged


def _columns(coefficients: torch.Tensor, n_tasks: int, n_tensors: int) -> Sequence[torch.Tensor]:
    if not isinstance(coefficients, torch.Tensor):
        raise InputError(
            f"coefficients: found {type(coefficients).__name__}, expected a tensor [T], [T, n] or "
            "[T, n, K]"
        )
    _check_place("coefficients", coefficients)
    if coefficients.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"coefficients: found {coefficients.dtype}, expected torch.float32 or torch.float64"
        )
    shape = tuple(coefficients.shape)
    if shape == (n_tasks,):
        return [coefficients] * n_tensors
    if shape[:2] == (n_tasks, n_tensors) and len(shape) <= 3 and shape[2:] != (0,):
        return coefficients.unbind(1)
    raise InputError(
        f"coefficients: found shape {list(shape)}, expected [{n_tasks}], one per task, "
        f"[{n_tasks}, {n_tensors}], one per task and tensor, or [{n_tasks}, {n_tensors}, K], one "
        "per task, tensor and block"
    )


def _rows(deltas: object) -> Sequence[Any]:
    if not isinstance(deltas, Sequence) or not deltas:
        found = "none" if isinstance(deltas, Sequence) else type(deltas).__name__
        raise InputError(f"deltas: found {found}, expected a sequence of one task vector or more")
    return deltas


def _one(where: str, delta: object) -> Mapping[str, Delta]:
    if not isinstance(delta, (torch.Tensor, EncodedDelta)):
        raise InputError(f"{where}: found {type(delta).__name__}, expected a tensor like the base")
    return {"": delta}


def _dict(where: str, delta: object) -> Deltas:
    if not isinstance(delta, Mapping):
        raise InputError(f"{where}: found {type(delta).__name__}, expected a dict like the base")
    return delta


def _label(argument: str, name: str) -> str:
    return f"{argument}: tensor {show(name)}" if name else argument


def _check_delta(where: str, delta: Delta, device: torch.device) -> None:
    if isinstance(delta, EncodedDelta):
        if device.type != "cpu":
            raise InputError(
                f"{where}: found a delta of a store, which is in the host's memory, and the base "
                f"on {device}; give its dense() there, or the base on the CPU"
            )
        return
    _check_tensor(where, delta)
    if delta.device != device:
        raise InputError(
            f"{where}: found device {delta.device}, expected {device}, the base's; move one of them"
        )


def _check_tensor(where: str, tensor: torch.Tensor) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{where}: found {type(tensor).__name__}, expected a tensor")
    if tensor.layout != torch.strided or tensor.dtype not in _CODES:
        raise InputError(
            f"{where}: found {tensor.dtype}, {tensor.layout}, expected a dense tensor of one of "
            f"{', '.join(map(str, _CODES))}; convert it, or leave it out of the deltas"
        )


def _check_place(where: str, tensor: torch.Tensor) -> None:
    device = tensor.device
    if device.type not in ("cpu", "cuda"):
        raise InputError(
            f"{where}: found device {device}, expected the CPU or a CUDA device; move it"
        )
    if device.type == "cuda" and ops.CUDA_PROBLEM is not None:
        raise InputError(
            f"{where}: found device {device}, expected the CPU: {ops.CUDA_PROBLEM}; move it"
        )


def _on_host(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


class _WeightedSum(torch.autograd.Function):
    """One tensor of a merge. Keeps references to the deltas, and copies nothing of them."""

    @staticmethod
    def forward(
        ctx: Any, coefficients: torch.Tensor, base: torch.Tensor, *deltas: Delta
    ) -> torch.Tensor:
        ctx.save_for_backward(*(one for one in deltas if isinstance(one, torch.Tensor)))
        ctx.encoded = [one if isinstance(one, EncodedDelta) else None for one in deltas]
        ctx.shape, ctx.dtype = coefficients.shape, coefficients.dtype
        factors = coefficients.detach().float().reshape(len(deltas), -1).contiguous()
        return (_sum_on_host if _on_host(base) else _sum_on_device)(factors, base.detach(), deltas)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
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
        rows.native,
        out.numel(),
        factors.shape[1],
        torch.get_num_threads(),
        given.data_ptr(),
        _CODES[base.dtype],
        factors.data_ptr(),
        out.data_ptr(),
    )
    return out


def _dots_on_host(grad: torch.Tensor, deltas: Sequence[Delta], n_blocks: int) -> torch.Tensor:
    given, rows = grad.contiguous(), _Rows(deltas)
    dots = torch.empty(len(deltas), n_blocks, dtype=torch.float64, device=grad.device)
    native.block_dots(
        rows.native,
        given.numel(),
        n_blocks,
        torch.get_num_threads(),
        given.data_ptr(),
        _CODES[given.dtype],
        dots.data_ptr(),
    )
    return dots


def _sum_on_device(
    factors: torch.Tensor, base: torch.Tensor, deltas: Sequence[Any]
) -> torch.Tensor:
    """By torch's own kernels: product and sum in one would not be rounded as on the host."""
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
    """The deltas of one tensor as the native code takes them, and what keeps them alive."""

    def __init__(self, deltas: Sequence[Delta]) -> None:
        self._kept = [
            one if isinstance(one, EncodedDelta) else one.detach().contiguous() for one in deltas
        ]
        self.native = [
            one.native
            if isinstance(one, EncodedDelta)
            else native.Source.plain(values=(-1, one.data_ptr(), _CODES[one.dtype]))
            for one in self._kept
        ]
