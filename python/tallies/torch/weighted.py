"""``weighted_merge``: a base and weighted task vectors, differentiable in the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
from torch.autograd.function import once_differentiable

from .. import _core
from ..errors import InputError
from ..suggest import show, unknown

Tensors = Mapping[str, torch.Tensor]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_TILE = 1 << 16
"""Elements at a time: two float32 tiles stay in the cache of a core."""


@overload
def weighted_merge(
    base: torch.Tensor, deltas: Sequence[torch.Tensor], coefficients: torch.Tensor
) -> torch.Tensor: ...
@overload
def weighted_merge(
    base: Tensors, deltas: Sequence[Tensors], coefficients: torch.Tensor
) -> dict[str, torch.Tensor]: ...
def weighted_merge(
    base: torch.Tensor | Tensors,
    deltas: Sequence[torch.Tensor] | Sequence[Tensors],
    coefficients: torch.Tensor,
) -> torch.Tensor | dict[str, torch.Tensor]:
    """base + sum over the tasks t of c_t * delta_t, added to the base from the first to the last.

    Every product and sum is rounded in float32, the result once to the base's dtype. ``base`` is a
    tensor or a dict of them, each of ``deltas`` the same; dtypes are float32, float16 or bfloat16,
    mixed freely, devices the CPU. The deltas have one set of names; tensors of the base that they
    lack are returned as they are.

    ``coefficients`` are float32 or float64: [T], one per task, or [T, n], one per task and tensor,
    whose columns are the tensors of the deltas in the order of the base. Rounded to float32.

    The gradient of a coefficient is the sum of grad * delta_t over its elements, each product exact
    and the sum in float64, read from the deltas as they are: nothing of a tensor's size is
    allocated for a task whose delta is contiguous. The base gets the gradient as it is, the deltas
    get none. A second derivative is not defined. Zeros, NaN and infinities count as IEEE 754 has
    it, so that 0 * infinity is NaN. Inputs are never changed.

    InputError names the argument and the tensor whose name, shape, dtype or device does not fit.

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


def merged_names(base: Tensors, deltas: Sequence[Tensors]) -> list[str]:
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
    base: Tensors, deltas: Sequence[Tensors], coefficients: torch.Tensor
) -> dict[str, torch.Tensor]:
    names = merged_names(base, deltas)
    for name in names:
        _check_tensor(_label("base", name), base[name])
        for i, delta in enumerate(deltas):
            where = _label(f"deltas[{i}]", name)
            _check_tensor(where, delta[name])
            if delta[name].shape != base[name].shape:
                raise InputError(
                    f"{where}: found shape {list(delta[name].shape)}, expected the base's, "
                    f"{list(base[name].shape)}"
                )
    columns = _columns(coefficients, len(deltas), len(names))
    merged = dict(base)
    for name, column in zip(names, columns, strict=True):
        rows = [delta[name] for delta in deltas]
        merged[name] = _WeightedSum.apply(column, base[name], *rows)  # type: ignore[no-untyped-call]
    return merged


def _columns(coefficients: torch.Tensor, n_tasks: int, n_tensors: int) -> Sequence[torch.Tensor]:
    if not isinstance(coefficients, torch.Tensor):
        raise InputError(
            f"coefficients: found {type(coefficients).__name__}, expected a tensor [T] or [T, n]"
        )
    _refuse_elsewhere("coefficients", coefficients)
    if coefficients.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"coefficients: found {coefficients.dtype}, expected torch.float32 or torch.float64"
        )
    if coefficients.shape == (n_tasks,):
        return [coefficients] * n_tensors
    if coefficients.shape == (n_tasks, n_tensors):
        return coefficients.unbind(1)
    raise InputError(
        f"coefficients: found shape {list(coefficients.shape)}, expected [{n_tasks}], one per "
        f"task, or [{n_tasks}, {n_tensors}], one per task and tensor"
    )


def _rows(deltas: object) -> Sequence[Any]:
    if not isinstance(deltas, Sequence) or not deltas:
        found = "none" if isinstance(deltas, Sequence) else type(deltas).__name__
        raise InputError(f"deltas: found {found}, expected a sequence of one task vector or more")
    return deltas


def _one(where: str, delta: object) -> Tensors:
    if not isinstance(delta, torch.Tensor):
        raise InputError(f"{where}: found {type(delta).__name__}, expected a tensor like the base")
    return {"": delta}


def _dict(where: str, delta: object) -> Tensors:
    if not isinstance(delta, Mapping):
        raise InputError(f"{where}: found {type(delta).__name__}, expected a dict like the base")
    return delta


def _label(argument: str, name: str) -> str:
    return f"{argument}: tensor {show(name)}" if name else argument


def _check_tensor(where: str, tensor: torch.Tensor) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{where}: found {type(tensor).__name__}, expected a tensor")
    _refuse_elsewhere(where, tensor)
    if tensor.layout != torch.strided or tensor.dtype not in _DTYPES:
        raise InputError(
            f"{where}: found {tensor.dtype}, {tensor.layout}, expected a dense tensor of one of "
            f"{', '.join(map(str, _DTYPES))}; convert it, or leave it out of the deltas"
        )


def _refuse_elsewhere(where: str, tensor: torch.Tensor) -> None:
    if tensor.device.type != "cpu":
        raise InputError(
            f"{where}: found device {tensor.device}, for which this build has no kernels yet; move "
            "it to the CPU"
        )


class _WeightedSum(torch.autograd.Function):
    """One tensor of a merge. Keeps references to the deltas, and copies nothing of them."""

    @staticmethod
    def forward(
        ctx: Any, coefficients: torch.Tensor, base: torch.Tensor, *deltas: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(*deltas)
        ctx.dtype = coefficients.dtype
        factors = coefficients.tolist()
        out = torch.empty(base.shape, dtype=base.dtype)
        flat, target = base.reshape(-1), out.view(-1)
        rows = [delta.reshape(-1) for delta in deltas]
        total, term = torch.empty(2, min(_TILE, out.numel())).unbind(0)
        for first in range(0, out.numel(), _TILE):
            n = min(_TILE, out.numel() - first)
            total[:n] = flat[first : first + n]
            for factor, row in zip(factors, rows, strict=True):
                # Not add's alpha, which fuses the product into the sum on some processors.
                term[:n] = row[first : first + n]
                total[:n] += term[:n].mul_(factor)
            target[first : first + n] = total[:n]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        deltas = ctx.saved_tensors
        dots = None
        if ctx.needs_input_grad[0]:
            flat = grad.reshape(-1)
            dots = torch.tensor([_dot(flat, one.reshape(-1)) for one in deltas], dtype=ctx.dtype)
        return (dots, grad if ctx.needs_input_grad[1] else None, *(None for _ in deltas))


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    """The sum of a * b in float64; other formats are widened a tile at a time."""
    n_elements = a.numel()
    is_wide = a.dtype == b.dtype == torch.float32
    step = n_elements if is_wide else _TILE
    total = 0.0
    for first in range(0, n_elements, max(step, 1)):
        x, y = (one[first : first + step].float().contiguous() for one in (a, b))
        total += _core.dot(x.data_ptr(), y.data_ptr(), x.numel())
    return total
