"""Sparse task vectors: the kept entries of each task, or exactly the elements that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .dtype import Array, Floats, Mask, Packed, ieee, narrow, widen
from .masks import pack_bits, unpack_bits
from .select import keep_mask
from .tall import Model, Vector, trained_names
from .task_arithmetic import add_to_base


class Entries(NamedTuple):
    """The kept entries of one tensor: a mask, and the values there in row-major order, [n_set].

    With int8 values `scales` holds one float32 for each row, [rows].
    """

    mask: Packed
    values: Array
    scales: Floats | None = None


def pack(
    base: Model,
    tasks: Sequence[Vector],
    density: float = 0.1,
    *,
    scope: str = "model",
    values: str = "base",
) -> list[dict[str, Entries]]:
    """Return the entries of each task vector that the TIES rule keeps at `density`.

    `scope` is "model" or "tensor"; `values` is "base" (the base's dtype), "bf16", "f32" or "int8".
    """
    return [
        {
            name: entries(x[name], kept, values, base[name].dtype)
            for name, kept in keep_mask(x, density, scope=scope).items()
        }
        for x in tasks
    ]


def entries(x: Floats, kept: Mask, values: str, base_dtype: npt.DTypeLike) -> Entries:
    """The entries of `x` where `kept`, each rounded once."""
    if values == "int8":
        quantized, scales = quantize(x, kept)
        return Entries(pack_bits(kept), quantized[kept], scales)
    dtype = {"base": base_dtype, "bf16": "bfloat16", "f32": np.float32}[values]
    return Entries(pack_bits(kept), narrow(x[kept], dtype))


@ieee
def quantize(x: Floats, kept: Mask) -> tuple[npt.NDArray[np.int8], Floats]:
    """q = rint(x / scale) within -127 to 127, and scale = max|kept x| / 127 of each row, float32.

    A row is an index of the first dimension; with fewer than two dimensions all is one row. A
    scale of 0 gives q = 0. A row that keeps NaN or infinity has a scale of NaN or infinity, where
    q = 0: all its kept entries come back as NaN.
    """
    rows = x.reshape(len(x) if x.ndim > 1 else 1, -1)
    kept = kept.reshape(rows.shape)
    largest = np.where(kept, np.abs(rows), np.float32(0)).max(axis=1)
    scales = narrow(largest / np.float32(127), np.float32)
    usable = (scales > 0) & np.isfinite(scales)
    quotients = np.where(kept & usable[:, None], rows / scales[:, None], np.float32(0))
    return np.clip(np.rint(quotients), -127, 127).astype(np.int8).reshape(x.shape), scales


def unpack(base: Model, task: Mapping[str, Entries]) -> dict[str, Array]:
    """One task: base + (value where the mask is set, +0 elsewhere), in the base's dtypes.

    An int8 value counts as float32(q) * scale of its row, rounded. A tensor without entries is
    copied from the base.
    """
    return {
        name: add_to_base(tensor, 1.0, dense(task[name], tensor.shape))
        if name in task
        else tensor.copy()
        for name, tensor in base.items()
    }


@ieee
def dense(sparse: Entries, shape: tuple[int, ...]) -> Floats:
    """The values as float32 where the mask is set, +0 elsewhere."""
    x = np.zeros(shape, np.float32)
    kept = unpack_bits(sparse.mask, x.size).reshape(shape)
    x[kept] = widen(sparse.values)
    if sparse.scales is not None:
        factors = np.repeat(sparse.scales, x.size // sparse.scales.size)
        x[kept] *= factors.reshape(shape)[kept]
    return x


def pack_exact(base: Model, experts: Sequence[Model]) -> list[dict[str, Entries]]:
    """The elements of each expert whose bits differ from the base's, in any dtype, as they are.

    Raises ValueError if a tensor that differs has another dtype than the base's.
    """
    names = trained_names(base, experts, integers=True)
    return [{name: changed(name, base[name], expert[name]) for name in names} for expert in experts]


def changed(name: str, base: Array, expert: Array) -> Entries:
    """The elements of one tensor whose bits differ from the base's."""
    if expert.dtype != base.dtype:
        raise ValueError(f"{name}: the expert's dtype is {expert.dtype}, expected {base.dtype}")
    differs = bit_patterns(expert) != bit_patterns(base)
    return Entries(pack_bits(differs), expert.ravel()[differs])


def bit_patterns(tensor: Array) -> npt.NDArray[np.unsignedinteger[npt.NBitBase]]:
    """The elements as unsigned integers of their width, [n_elements], a copy."""
    return tensor.flatten().view(f"u{tensor.dtype.itemsize}")


def unpack_exact(base: Model, task: Mapping[str, Entries]) -> dict[str, Array]:
    """One task: its value where the mask is set, else the base's, bit for bit."""
    out = {name: tensor.copy() for name, tensor in base.items()}
    for name, sparse in task.items():
        bits = bit_patterns(out[name])
        bits[unpack_bits(sparse.mask, bits.size)] = bit_patterns(sparse.values)
        out[name] = bits.view(out[name].dtype).reshape(out[name].shape)
    return out
