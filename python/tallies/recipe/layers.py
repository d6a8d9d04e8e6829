"""Find layer numbers in tensor names.

A layer is the first number of a name that counts: several tensors differ in nothing but this
number. ``model.layers.12.mlp.up_proj.weight`` is layer 12 of the stack ``model.layers``;
``0.auto_model.encoder.layer.3.output.dense.weight`` is layer 3, because no tensor has the same name
with another number in the place of the 0. A number is a component of the name, or ends a word such
as ``layer3`` or ``block_2``.

The position t is 12 / n, where n is the last number of the stack; a stack that begins with 1 begins
with t = 0. Tensors outside the layers (embeddings, final norm, head) have t = 0. The only layer of
a stack whose word says that it is one (``layers.0``) has t = 1, as in mergekit.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

_WORD: Final = "(?:layer|block|stage|level|resblock)s?_?|h"

# Nine digits: int() refuses very long numbers, and no model has a billion layers.
_NUMBER: Final = re.compile(rf"(?i)(?:(?<![^./])|(?:(?<![^./_])(?:{_WORD})))([0-9]{{1,9}})(?=[./])")

_STACK: Final = re.compile(rf"(?i)(?:\A|[./_])(?:{_WORD})[.]\Z")
"""Ends of what stands before the number of a layer, whatever other layers there are."""

_DIGITS: Final = re.compile(r"\d+")


class Layer(NamedTuple):
    """A layer: where it is numbered, such as ``model.layers.``, and its number."""

    stack: str
    number: int
    label: str
    """Its name as the tensors' names begin: ``model.layers.12``."""


class Layers:
    """The layers in the names of a model's tensors.

    Args:
        names: The names of all tensors.

    >>> layers = Layers(["embed.weight", "h.0.weight", "h.1.weight", "h.2.weight"])
    >>> layers.label("h.1.weight"), layers.position("h.1.weight"), layers.label("embed.weight")
    ('h.1', 0.5, None)
    """

    def __init__(self, names: Iterable[str]) -> None:
        found = {name: _numbers(name) for name in names}
        counting = _counting(found)
        self._layers = {name: _layer(name, found[name], counting) for name in found}
        held: dict[str, set[int]] = defaultdict(set)
        for layer in filter(None, self._layers.values()):
            held[layer.stack].add(layer.number)
        self._ends = {
            stack: (min(numbers) == 1 and len(numbers) > 1, max(numbers))
            for stack, numbers in held.items()
        }

    def label(self, name: str) -> str | None:
        """Return the layer of a tensor, as ``model.layers.12``, or None outside the layers."""
        layer = self._layers[name]
        return layer.label if layer else None

    def layer(self, name: str) -> Layer | None:
        """Return the layer of a tensor, or None outside the layers."""
        return self._layers[name]

    def stacks(self) -> dict[str, int]:
        """Return the number of layers of each stack, by the beginning of their names."""
        held = {(one.stack, one.number) for one in self._layers.values() if one}
        return {stack: sum(one == stack for one, _ in held) for stack in sorted(self._ends)}

    def n_of_largest_stack(self) -> int:
        """Return the number of layers of the stack that has the most; 0 without layers."""
        return max((last + 1 - first for first, last in self._ends.values()), default=0)

    def position(self, name: str) -> float:
        """Return the position t of a tensor in its stack, from 0 to 1."""
        layer = self._layers[name]
        if layer is None:
            return 0.0
        first, last = self._ends[layer.stack]
        return (layer.number - first) / (last - first) if last else 1.0


def layer_positions(names: Iterable[str]) -> dict[str, float]:
    """Return the position t in [0, 1] of every tensor name."""
    names = list(names)
    layers = Layers(names)
    return {name: layers.position(name) for name in names}


def _numbers(name: str) -> list[Layer]:
    """Return the numbers of a name as if each were the name's layer."""
    return [
        Layer(name[: one.start(1)], int(one[1]), name[: one.end(1)])
        for one in _NUMBER.finditer(name)
    ]


def _counting(found: Mapping[str, Iterable[Layer]]) -> dict[str, set[str]]:
    """Return the stacks that count, and the ends of names that differ in nothing but the number.

    Later numbers count as equal: they are those of experts, heads and the like.
    """
    numbers: dict[tuple[str, str], set[int]] = defaultdict(set)
    for name, layers in found.items():
        for layer in layers:
            numbers[layer.stack, _end(name, layer)].add(layer.number)
    counting: dict[str, set[str]] = defaultdict(set)
    for (stack, end), held in numbers.items():
        if len(held) > 1:
            counting[stack].add(end)
    return counting


def _layer(name: str, numbers: Iterable[Layer], counting: Mapping[str, set[str]]) -> Layer | None:
    """Return the layer of a name: the first number that counts in it, or else in other names."""
    in_others = None
    for one in numbers:
        if _STACK.search(one.stack) or _end(name, one) in counting.get(one.stack, ()):
            return one
        if in_others is None and one.stack in counting:
            in_others = one
    return in_others


def _end(name: str, layer: Layer) -> str:
    return _DIGITS.sub("#", name[len(layer.label) :])
