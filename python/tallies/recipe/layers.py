"""Layer numbers in tensor names."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Nine digits: int() refuses very long ones, and no model has a billion layers.
_LAYER = re.compile(r"(?:^|\.)([0-9]{1,9})\.")


def layer_positions(names: Iterable[str]) -> dict[str, float]:
    """The position t in [0, 1] of every tensor name; see the head of this file."""
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
    """The layer of a tensor, as ``model.layers.12``; None outside the layers."""
    layer = _LAYER.search(name)
    return name[: layer.end() - 1] if layer else None


def _position(index: int, last: int) -> float:
    return index / last if last else 1.0
