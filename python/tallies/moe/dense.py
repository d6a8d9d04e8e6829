"""Read the layers, the type and the dtype of a dense model."""

from __future__ import annotations

import re
from typing import Final

from ..checkpoint.checkpoint import Checkpoint
from ..errors import InputError
from ..messages import counted, show
from ..spec.dtypes import named
from .config import Request

MLP: Final = re.compile(r"(?P<layer>(?:.*\.)?layers\.(?P<number>\d+))\.mlp\.(?P<rest>.+)")
"""The name of a tensor of a dense layer."""


def model_type(model: Checkpoint) -> str:
    """Return the model_type of a model's config.json; InputError without one."""
    found = model.config().get("model_type") if model.path.is_dir() else None
    if not isinstance(found, str):
        raise InputError(
            f"{model.path}: has no config.json with a model_type, which decides the layout of the "
            "result; name the directory of a model"
        )
    return found


def layer_prefixes(base: Checkpoint) -> list[str]:
    """Return the prefixes of the layers of a dense model, in order."""
    found: dict[int, str] = {}
    for name in base.tensors:
        if (match := MLP.fullmatch(name)) and match["rest"] == "gate_proj.weight":
            found[int(match["number"])] = match["layer"]
    if not found or sorted(found) != list(range(len(found))):
        raise InputError(
            f"{base.path}: has no tensors such as 'model.layers.0.mlp.gate_proj.weight' for all "
            "layers, expected a dense model"
        )
    stated = base.config().get("num_hidden_layers")
    if stated is not None and stated != len(found):
        raise InputError(
            f"{base.path}: config.json states {show(stated)} layers, and the tensors are those of "
            f"{counted(len(found), 'layer')}"
        )
    return [found[number] for number in range(len(found))]


def result_dtype(request: Request, base: Checkpoint) -> str | None:
    """Return the dtype of the result, or None for that of each tensor of the base."""
    if request.config.dtype is not None:
        return request.config.dtype
    stated = base.config().get("dtype") or base.config().get("torch_dtype")
    return named(stated) if isinstance(stated, str) else None
