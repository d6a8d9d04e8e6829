"""BitDelta: the signs of a matrix's task vector, and one magnitude for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .dtype import Array, Floats, Packed, ieee
from .emr import l1_norm
from .masks import pack_bits, unpack_bits
from .tall import Model, trained_names, vectors
from .task_arithmetic import add_to_base

DENSE = ("embed", "lm_head", "wte", "wpe")
"""Parts of names: a matrix with one of them in its name is kept as it is."""


class SignBits(NamedTuple):
    """A task vector of `scale` where the bit is set and -`scale` where it is not."""

    bits: Packed
    scale: np.float32


Task = Mapping[str, SignBits | Array]
"""The signs and the scale of each trained tensor, or the dense tensor itself."""


def is_binary(name: str, tensor: Array, dense: Sequence[str] = DENSE) -> bool:
    """Tell whether the tensor has exactly two dimensions and a name without any part of `dense`."""
    return tensor.ndim == 2 and not any(part in name for part in dense)


def pack(base: Model, experts: Sequence[Model], dense: Sequence[str] = DENSE) -> list[Task]:
    """Each expert: sign bits for the matrices, everything else trained as it is, bit for bit."""
    names = trained_names(base, experts)
    return [
        {
            name: sign_bits(x[name]) if is_binary(name, base[name], dense) else expert[name].copy()
            for name in names
        }
        for x, expert in zip(vectors(base, experts, names), experts, strict=True)
    ]


@ieee
def sign_bits(x: Floats) -> SignBits:
    """scale = mean|x|, its sum and quotient in float64, then float32; bit = not (x < 0).

    Zero and NaN set the bit; a NaN makes the scale NaN.
    """
    return SignBits(pack_bits(~(x < 0)), np.float32(l1_norm(x) / x.size))


def unpack(base: Model, task: Task) -> dict[str, Array]:
    """One task: base + (+scale where the bit is set, -scale elsewhere), or the dense tensor.

    A tensor without an entry is copied from the base.
    """
    return {name: restore(tensor, task.get(name, tensor)) for name, tensor in base.items()}


def restore(base: Array, part: SignBits | Array) -> Array:
    """One tensor, in the base's dtype."""
    if not isinstance(part, SignBits):
        return part.copy()
    bits = unpack_bits(part.bits, base.size).reshape(base.shape)
    return add_to_base(base, 1.0, np.where(bits, part.scale, -part.scale))
