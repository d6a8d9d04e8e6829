"""Find layer numbers in tensor names.

A layer is the first number between the dots of a name: ``model.layers.12.mlp.up_proj.weight`` is
layer 12 of ``model.layers``. Its position t is 12 / (n_layers - 1), where ``n_layers`` counts the
layers below the same prefix. Tensors outside the layers (embeddings, final norm, head) have t = 0,
and the only layer of its prefix has t = 1, as in mergekit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Nine digits: int() refuses very long numbers, and no model has a billion layers.
_LAYER = re.compile(r"(?:^|\.)([0-9]{1,9})\.")


def layer_positions(names: Iterable[str]) -> dict[str, float]:
    """Return the position t in [0, 1] of every tensor name."""
    found = {name: _LAYER.search(name) for name in names}
    last: dict[str, int] = {}
    for name, layer in found.items():
        if layer:
            prefix = name[: layer.start()]
            last[prefix] = max(last.get(prefix, 0), int(layer[1]))
    return {
        name: _position(int(layer[1]), last[name[: layer.start()]]) if layer else 0.0
        for name, layer in found.items()
    }


def layer_of(name: str) -> str | None:
    """Return the layer of a tensor, as ``model.layers.12``, or None outside the layers."""
    layer = _LAYER.search(name)
    return name[: layer.end() - 1] if layer else None


def _position(index: int, last: int) -> float:
    return index / last if last else 1.0
