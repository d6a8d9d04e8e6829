"""Tensors of torch that have no plain values: why each is refused, and the way out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..messages import show
from .torch_zip import SAVE_AGAIN


@dataclass(frozen=True, slots=True)
class Odd:
    """A value of a pickle that cannot be read, and why; a name that is not run makes one."""

    why: str
    way_out: str = SAVE_AGAIN


_AGAIN: Final = "save the file again with {} in its place"

_ODD: Final = (
    (
        r"torch\.Complex\w+Storage|torch\.complex\d+",
        "holds complex numbers ({}, which is not supported)",
        _AGAIN.format("torch.view_as_real of the tensor"),
    ),
    (
        r"torch\.nn\.parameter\.Uninitialized\w+",
        "has no shape yet, as lazy modules have it ({})",
        "run the model once on an input, then save it again",
    ),
    (
        r"torch\._utils\._rebuild_meta_tensor_no_storage",
        "has no data: it was on the meta device when it was saved ({})",
        "load the model's weights, then save it again",
    ),
    (
        r"torch\._utils\._rebuild_sparse\w*|torch\.serialization\._get_layout",
        "is sparse ({})",
        _AGAIN.format("to_dense() of the tensor"),
    ),
    (
        r"torch\._utils\._rebuild_qtensor|torch\.Q\w+Storage|torch\.per_\w+_affine\w*",
        "is quantised ({})",
        _AGAIN.format("dequantize() of the tensor"),
    ),
    (
        r"torch\._utils\._rebuild_nested_tensor",
        "is nested ({})",
        _AGAIN.format("each of its tensors"),
    ),
    (
        r"torch\.\w+Storage|torch\.(?:float|u?int|q?u?int|bits)\d\w*",
        "has a type that is not supported ({})",
        _AGAIN.format("bfloat16() of the tensor"),
    ),
)
"""Names that torch writes for tensors without plain values, what to say, and the way out."""


def odd(name: str) -> Odd:
    """Say why a name that a pickle uses makes nothing that can be read."""
    for pattern, why, way_out in _ODD:
        if re.fullmatch(pattern, name):
            return Odd(why.format(name), way_out)
    return Odd(f"names {show(name)}, which was not run; expected tensors and containers")
