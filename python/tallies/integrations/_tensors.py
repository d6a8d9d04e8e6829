"""Tell whether a host's tensors can be merged here, and give the reason where they cannot."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._facts import HandOver

if TYPE_CHECKING:
    from torch import Tensor

# torch adds up the first 4 rows in their order, and up to 17 where whole vectors cover a row.
IN_ORDER = 4
IN_ORDER_OF_VECTORS = 17
VECTOR = 32


def is_float(value: Any, *names: str) -> bool:
    """Return whether the dtype of a tensor is float32, or another of those named."""
    return str(value.dtype).removeprefix("torch.") in ("float32", *names)


def reason_of_state() -> str | None:
    """Return why torch follows each operation of a call, or does others; None where it does not.

    Any argument may then stand for more than its values: a weight as well as a row.

    Returns:
        The word that is counted as the reason.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "transform"
    if torch.autograd.forward_ad._current_level >= 0:
        return "gradients"
    if torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack():
        return "mode"
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return "tracing"
    if torch.get_default_dtype() != torch.float32:
        # The host's scalars and new tensors have this dtype.
        return "default dtype"
    return None


def reason_against(tensors: Sequence[Any], dtypes: Sequence[str] = ()) -> str | None:
    """Return why tensors cannot be merged element by element here; None where they can.

    Args:
        tensors: The tensors.
        dtypes: Names of dtypes that are taken beside float32.

    Returns:
        The word that is counted as the reason.
    """
    import torch

    from ..engine.codes import MAX_EXPERTS

    if not tensors or any(type(x) not in (torch.Tensor, torch.nn.Parameter) for x in tensors):
        return "kind"
    first = tensors[0]
    if any(x.layout is not torch.strided or x.is_quantized for x in tensors):
        return "layout"
    if any(x.device.type != "cpu" for x in tensors):
        return "device"
    if any(x.dtype != first.dtype for x in tensors) or not is_float(first, *dtypes):
        return "dtype"
    if any(x.shape != first.shape for x in tensors):
        return "shapes"
    if first.numel() == 0:
        return "empty"
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return "gradients"
    if len(tensors) > MAX_EXPERTS:
        return "number of models"
    return None


def check(tensors: Sequence[Any], dtypes: Sequence[str] = ()) -> None:
    """Raise HandOver where tensors cannot be merged element by element here."""
    reason = reason_against(tensors, dtypes)
    if reason is not None:
        raise HandOver(reason)


def check_order(rows: Tensor | Sequence[Tensor], *operands: Tensor) -> None:
    """Raise HandOver where torch does not add up stacked float32 rows in their order.

    Args:
        rows: The rows that the host stacks, or has stacked along the first dimension.
        operands: Other tensors of a row's shape whose strides the host's stack may take over.
    """
    check_order_of_dense(len(rows), rows[0].numel())
    if len(rows) <= IN_ORDER:
        return
    if isinstance(rows, Sequence):
        parts, apart = [*rows], True
    else:
        parts, apart = [rows[0]], rows.stride(0) >= rows[0].numel()
    if not apart or not all(x.is_contiguous() for x in (*parts, *operands)):
        raise HandOver("order of sums")


def check_order_of_dense(n_rows: int, n_elements: int) -> None:
    """Raise HandOver where torch does not add up stacked rows without gaps in their order."""
    if n_rows > IN_ORDER_OF_VECTORS or (n_rows > IN_ORDER and n_elements % VECTOR):
        raise HandOver("order of sums")


def largest(tensor: Tensor) -> float:
    """Return the largest magnitude of a tensor's values; NaN where one is NaN."""
    import torch

    low, high = torch.aminmax(tensor.detach())
    return max(-float(low), float(high))


def check_finite(*tensors: Tensor) -> None:
    """Raise HandOver where a value is NaN or infinite."""
    for tensor in tensors:
        if not math.isfinite(largest(tensor)):
            raise HandOver("not finite")


def number_of(value: Any) -> float:
    """Return a finite number as it is; raise HandOver for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise HandOver("arguments")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise HandOver("arguments")
    return value


def check_weights(weights: Any) -> None:
    """Raise HandOver for weights that are not plain float32 numbers, or are differentiated."""
    reason = reason_against([weights])
    if reason is not None:
        raise HandOver(reason)
