"""The values of parameters over the tensors of a merge, as ranges and by layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from ..messages import either
from ..recipe.layers import Layers
from ..recipe.settings import Scalar

_NUMBERED = re.compile(r"(.*?)\.?(\d+)")


def extent(values: Iterable[Scalar]) -> Any:
    """Return the value that all share, or else the least and the most; of words, all of them."""
    found = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if len(found) <= 1:
        return found[0] if found else None
    return (
        found if any(isinstance(value, (str, bool)) for value in found) else [found[0], found[-1]]
    )


def in_words(value: Any) -> str:
    """Return a value, or the extent of several, as text.

    >>> in_words(1.0), in_words([0.25, 1.0]), in_words(True), in_words(["keep", "first"])
    ('1', '0.25 to 1', 'true', 'keep or first')
    """
    if isinstance(value, list):
        words = [in_words(one) for one in value]
        is_range = not any(isinstance(one, (str, bool)) for one in value)
        return " to ".join(words) if is_range else either(words)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def listed(parameters: Mapping[str, Any]) -> str:
    """Return parameters and values as text: ``density 0.2, weight 0.5 to 1``."""
    return ", ".join(f"{name} {in_words(value) or '(none)'}" for name, value in parameters.items())


def modified(key: str, value: Any) -> str:
    """Return a change of the task vectors as text: ``layer_scaling alpha 0.3, beta 0.7``."""
    return f"{key} {listed(value) if isinstance(value, Mapping) else value}"


def extents(tensors: Iterable[Mapping[str, Scalar]]) -> dict[str, Any]:
    """Return the extent of each parameter over tensors, each of which has values by parameter."""
    found: dict[str, list[Scalar]] = {}
    for parameters in tensors:
        for name, value in parameters.items():
            found.setdefault(name, []).append(value)
    return {name: extent(values) for name, values in found.items()}


def by_layer(values: Mapping[str, Scalar]) -> dict[str, Any]:
    """Return the extent in each layer, in order, of values by tensor; "" is outside the layers."""
    layers = Layers(values)
    found: dict[str, list[Scalar]] = {}
    for name, value in values.items():
        found.setdefault(layers.label(name) or "", []).append(value)
    return {layer: extent(found[layer]) for layer in sorted(found, key=_place)}


def stacks(layers: Iterable[str]) -> dict[str, list[str]]:
    """Return layers in order by what they are numbered in, such as ``model.layers``."""
    found: dict[str, list[str]] = {}
    for layer in sorted(filter(None, layers), key=_place):
        found.setdefault(_place(layer)[0], []).append(layer)
    return found


def layers_in_words(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield values by layer as text, a line a stack: ``model.layers 0=1, 1=0.5, 2-7=0``."""
    if "" in values:
        yield f"outside the layers: {in_words(values[''])}"
    for stack, layers in stacks(values).items():
        at = [(str(_place(layer)[1]), in_words(values[layer])) for layer in layers]
        runs = [list(run) for _, run in groupby(at, key=lambda one: one[1])]
        yield f"{stack} {', '.join(f'{span(run)}={run[0][1]}' for run in runs)}".lstrip()


def span(run: Sequence[tuple[str, str]]) -> str:
    """Return first and last of some layers: ``3-7``, or ``3`` for one."""
    return run[0][0] if len(run) == 1 else f"{run[0][0]}-{run[-1][0]}"


def _place(layer: str) -> tuple[str, int]:
    """Return what a layer is numbered in, and its number."""
    numbered = _NUMBERED.fullmatch(layer)
    return (numbered[1], int(numbered[2])) if numbered else (layer, -1)
