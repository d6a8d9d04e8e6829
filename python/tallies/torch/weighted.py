"""Merges a base and weighted task vectors, differentiably in the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, overload

import torch

from ..engine.odd_tensors import odd_kind
from ..errors import InputError
from ..messages import show, unknown
from . import ops
from .encoded import EncodedDelta
from .weighted_sum import CODES, Delta, WeightedSum

Tensors: TypeAlias = Mapping[str, torch.Tensor]
Deltas: TypeAlias = Mapping[str, torch.Tensor] | Mapping[str, EncodedDelta] | Mapping[str, Delta]


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
    """Merge base + sum over the tasks t of c_t * delta_t, differentiably in the coefficients.

    Terms are added to the base from the first task to the last. Every product and sum is rounded in
    float32, the result once to the base's dtype. Zeros, NaN and infinities follow IEEE 754, so that
    0 * infinity is NaN. Inputs are never changed.

    The gradient of a coefficient is the sum of grad * delta_t over its elements: each product is
    exact, and the sum runs in float64, in an order that does not depend on torch's number of
    threads. Nothing of a tensor's size is allocated for a contiguous delta. The base gets the
    gradient as it is, the deltas get none, and a second derivative is not defined.

    A tensor and its deltas are on the CPU or on one CUDA device, the coefficients anywhere. On a
    device the deltas are dense, and each takes a temporary of its size in float32. The merge has
    the same bits there, except for the payloads of NaN, and so has the gradient of a coefficient
    for a whole tensor. The gradient for one of several blocks is summed in another fixed order.
    None of that has been run on a device yet.

    Args:
        base: A tensor, or tensors by name, of float32, float16 or bfloat16.
        deltas: For each task a tensor or tensors by name, in the shapes of the base and of any of
            these dtypes, or encoded deltas of ``store_deltas``, which are decoded a few thousand
            elements at a time and give the bits of their ``dense()``. All tasks have one set of
            names.
        coefficients: float32 or float64, which are rounded to float32: [T], one per task; [T, n],
            one per task and tensor, in the order of the base; or [T, n, K], one per task, tensor
            and block. Block k of a tensor with P elements, flattened, has the elements from
            floor(k P / K) to floor((k + 1) P / K): whole rows, or heads, where K divides the first
            dimension. Blocks without elements have the gradient 0.

    Returns:
        A tensor, or tensors by name, in the dtypes of the base. Tensors of the base that the deltas
        lack are returned as they are.

    Raises:
        InputError: A name, shape, dtype or device does not fit; the message names the argument and
            the tensor.

    Blocks are after Zhang et al., aTLAS, 2024, arXiv 2407.02880, which deals the elements out at
    random; consecutive elements need no memory, and have a meaning.

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
    """Return the names of the deltas' tensors, in the order of the base.

    Raises:
        InputError: The base, or one of the deltas, lacks a name.
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
        merged[name] = WeightedSum.apply(there, base[name], *rows)  # type: ignore[no-untyped-call]
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
    odd = odd_kind(tensor)
    if odd is not None and not tensor.is_meta:
        raise InputError(f"{where}: found {odd[0]}, expected a dense tensor; {odd[1]}")
    if tensor.layout != torch.strided or tensor.dtype not in CODES:
        raise InputError(
            f"{where}: found {tensor.dtype}, {tensor.layout}, expected a dense tensor of one of "
            f"{', '.join(map(str, CODES))}; convert it, or leave it out of the deltas"
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
