"""Tensors as arguments: checked, and laid out as the native code reads them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection
from typing import Any, Final

import torch
from torch import Tensor

from .. import _core
from ..arguments import number, whole
from ..arguments import same_shape as same_shape
from ..arguments import weights as checked_weights
from ..errors import InputError
from ..native import DTYPE_CODES, DTYPE_OF_ARRAY, KERNEL_DTYPES, MAX_EXPERTS
from ..passes import Place

CODES: Final = {getattr(torch, name): DTYPE_CODES[DTYPE_OF_ARRAY[name]] for name in KERNEL_DTYPES}
"""The dtypes that the kernels read and write, as the native code numbers them."""


def tensor(name: str, value: object, dtypes: Collection[torch.dtype] = CODES) -> Tensor:
    """A dense tensor on the CPU of one of these dtypes."""
    if not isinstance(value, Tensor):
        raise InputError(
            f"{name}: found {type(value).__name__}, expected a torch tensor of {_words(dtypes)}"
        )
    if value.device.type != "cpu":
        raise InputError(
            f"{name}: found a tensor on {value.device}, expected one on the CPU: this build has no "
            "kernels for other devices yet; move it with .cpu()"
        )
    if value.layout is not torch.strided:
        raise InputError(
            f"{name}: found layout {value.layout}, expected a dense tensor; convert it with "
            ".to_dense()"
        )
    if value.dtype not in dtypes:
        raise InputError(
            f"{name}: found dtype {_word(value.dtype)}, expected one of {_words(dtypes)}; "
            "convert it with .to()"
        )
    return value


def tensors(name: str, value: object, *, one_dtype: bool = True) -> list[Tensor]:
    """One tensor per expert, of equal shapes, from a sequence of tensors or one tensor [N, ...]."""
    rows = [tensor(f"{name}[{i}]", row) for i, row in enumerate(rows_of(name, value))]
    for i, row in enumerate(rows):
        same_shape(f"{name}[{i}]", row, f"{name}[0]", rows[0])
        if one_dtype and row.dtype != rows[0].dtype:
            raise InputError(
                f"{name}[{i}]: found dtype {_word(row.dtype)}, expected that of {name}[0], "
                f"{_word(rows[0].dtype)}; convert one of them"
            )
    return rows


def rows_of(name: str, value: object) -> list[Any]:
    """The items of a sequence, or of a tensor along its first axis: from 1 to 256."""
    rows: list[Any]
    if isinstance(value, Tensor) and value.ndim > 0:
        rows = list(value.unbind(0))
    elif isinstance(value, (list, tuple)):
        rows = list(value)
    else:
        kind = "a 0-d tensor" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"{name}: found {kind}, expected a list of tensors or a tensor [N, ...]")
    if not 1 <= len(rows) <= MAX_EXPERTS:
        raise InputError(f"{name}: found {len(rows)} tensors, expected 1 to {MAX_EXPERTS}")
    return rows


def signs(value: object, like: Tensor) -> Tensor:
    """Elected signs in the shape of one delta."""
    elected = tensor("signs", value, (torch.int8,))
    same_shape("signs", elected, "deltas[0]", like)
    return elected


def packed(name: str, value: object, n: int) -> Tensor:
    """A packed mask of ``n`` elements."""
    mask = tensor(name, value, (torch.uint8,))
    n_bytes = (n + 7) // 8
    if mask.ndim != 1:
        raise InputError(
            f"{name}: found shape {tuple(mask.shape)}, expected a packed mask, uint8 of one "
            "dimension"
        )
    if mask.numel() != n_bytes:
        raise InputError(f"{name}: found {mask.numel()} bytes, expected {n_bytes} for {n} elements")
    return mask


def packed_masks(value: object, n: int) -> list[Tensor]:
    """Packed masks of ``n`` elements each."""
    rows = rows_of("packed_masks", value)
    return [packed(f"packed_masks[{i}]", mask, n) for i, mask in enumerate(rows)]


def rank(x: Tensor, k: object) -> int:
    """A rank among the elements of ``x``, counted from 1."""
    if x.numel() == 0:
        raise InputError("x: found no elements, expected at least one to rank")
    return whole("k", k, 1, x.numel())


def threshold(value: object) -> float:
    """A magnitude, or NaN: a number of 0 or more, or a tensor of one."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise InputError(
                f"threshold: found a tensor of shape {tuple(value.shape)}, expected one number"
            )
        value = value.item()
    if isinstance(value, numbers.Real) and math.isnan(value):
        return math.nan
    return number("threshold", value, 0, math.inf)


def weights(value: object, n_experts: int) -> list[float]:
    """One finite number per expert; ones for None."""
    return checked_weights(value.tolist() if isinstance(value, Tensor) else value, n_experts)


def densities(value: object, n_experts: int) -> list[float]:
    """One share per expert, from one for all or a sequence."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        return [number("density", value, 0, 1)] * n_experts
    if len(value) != n_experts:
        raise InputError(
            f"density: found {len(value)} values, expected one for each of the {n_experts} experts"
        )
    return [number(f"density[{i}]", one, 0, 1) for i, one in enumerate(value)]


def laid_out(value: Tensor) -> Tensor:
    """The same elements without a gradient, row-major and aligned; a copy where they were not."""
    dense = value.detach().contiguous()
    return dense.clone() if dense.data_ptr() % dense.element_size() else dense


def place(values: Tensor) -> Place:
    """The tensor as the native code takes it."""
    return (-1, values.data_ptr(), CODES[values.dtype])


def widened(values: Tensor) -> Tensor:
    """The values in float32, laid out; the tensor itself where it is so already."""
    dense = laid_out(values)
    if dense.dtype == torch.float32:
        return dense
    out = torch.empty(dense.shape, dtype=torch.float32)
    _core.widen(dense.data_ptr(), CODES[dense.dtype], out.data_ptr(), dense.numel())
    return out


def narrowed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The values rounded once, every NaN made canonical; in place where they stay float32."""
    out = values if dtype == torch.float32 else torch.empty(values.shape, dtype=dtype)
    _core.narrow(values.data_ptr(), out.data_ptr(), CODES[dtype], values.numel())
    return out


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _words(dtypes: Collection[torch.dtype]) -> str:
    return ", ".join(_word(dtype) for dtype in dtypes)
