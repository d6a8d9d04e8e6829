"""Models of which one has a fault, and assertions about the line that refuses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.checkpoints import Array, Model
from tests.support.command import assert_failed, tallies, tree

BASE: Model = {
    "embed_tokens.weight": np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4),
    "layer.weight": np.linspace(0, 3, 16, dtype=np.float32).reshape(4, 4),
    "position_ids": np.arange(3),
}


def changed(**tensors: Array | None) -> Model:
    """An expert; ``layer_weight`` is ``layer.weight``, and None takes a tensor away."""
    model = {name: array + (array.dtype == np.float32) for name, array in BASE.items()}
    for key, array in tensors.items():
        name = key.replace("_weight", ".weight")
        if array is None:
            del model[name]
        else:
            model[name] = array
    return model


def refused(*arguments: object, status: int = 2) -> str:
    """The one line with which a command refuses, having changed nothing in the whole directory."""
    before = tree(Path.cwd())
    line = assert_failed(tallies(*arguments), status)
    assert tree(Path.cwd()) == before
    return line


def assert_names(line: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in line, line


def spoilt(shape: tuple[int, ...], places: dict[int, float], dtype: Any = np.float32) -> Array:
    """Ones, but for the values at these flat indices."""
    flat = np.ones(int(np.prod(shape)), dtype)
    for index, value in places.items():
        flat[index] = value
    return flat.reshape(shape)
