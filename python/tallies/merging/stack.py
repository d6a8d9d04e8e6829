"""States a stack of layers: the tensors of a result, and the models that they are taken of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.stacked import LayerOf
from ..checkpoint.tensors import TensorInfo
from ..checkpoint.tied import is_embedding, is_head
from ..errors import InputError
from ..messages import show
from ..recipe.layers import Layer, Layers
from ..recipe.stacks import ModuleEntry, Origin, SliceEntry, SourceEntry
from .stack_modules import Part

_FOR_ALL: Final = re.compile(r"relative_attention_bias|rel_attn_embed")
"""Tensors that the first layer may have for all layers of its stack."""


@dataclass(frozen=True)
class Stack:
    """The models of a merge with the tensors, and the names, that they have in a stack."""

    template: Checkpoint
    """For each tensor of the result that of the base, or of the first model that has part in it."""
    base: Checkpoint
    experts: tuple[Checkpoint, ...]
    origins: Mapping[str, Origin]
    """By name in the result."""
    taken: tuple[tuple[Layer, ...], ...]
    """The layers of each expert that are in the stack, in the order of the stack."""
    taken_of_base: tuple[Layer, ...]
    """Those of the base, or of the bases that slices have of their own."""
    layers: Mapping[Part, Sequence[LayerOf]]
    """The layers of the result, by the module that has them."""
    warnings: Sequence[str] = ()

    def taking(self, name: str) -> tuple[int, ...]:
        """Return the numbers of the experts that take part in a tensor, in order."""
        return self.origins[name].experts

    def layers_of_parts(self) -> list[tuple[str, str, Sequence[LayerOf]]]:
        """Return the parts of config.json that count layers, with key, key of number and layers."""
        found = []
        config = self.template.config()
        for part, layers in self.layers.items():
            if place := part.place(config):
                found.append((*place, layers))
        return found

    def only(self, names: Iterable[str]) -> dict[str, Origin]:
        """Return the origins of some tensors."""
        return {name: self.origins[name] for name in names}

    @property
    def is_whole(self) -> bool:
        """True if all experts take part in every tensor, in one order."""
        every = tuple(range(len(self.experts)))
        return all(one.experts == every for one in self.origins.values())


@dataclass(frozen=True)
class Place:
    """A layer of a slice in a recipe, or what is outside of the layers."""

    where: str
    """The slice, for messages."""
    module: ModuleEntry
    slice: SliceEntry
    position: float
    number: int | None = None
    """The number of the layer in the slice."""

    def layer(self, source: SourceEntry) -> str:
        """Return the layer of a source in words, if this is one."""
        if self.number is None:
            return ""
        first = source.layer_range[0] if source.layer_range else 0
        return f"layer {first + self.number} of "


class StackedModel:
    """The layers of a model, and its tensors outside of them."""

    def __init__(self, text: str, checkpoint: Checkpoint) -> None:
        self.text = text
        self.checkpoint = checkpoint
        self.layers = Layers(checkpoint.tensors)
        self.by_layer: dict[tuple[str, int], dict[str, str]] = {}
        for name in checkpoint.tensors:
            if (layer := self.layers.layer(name)) is not None:
                held = self.by_layer.setdefault((layer.stack, layer.number), {})
                held[name[len(layer.label) :]] = name

    def first_alone(self, stack: str) -> dict[str, str]:
        """Return the tensors that the first layer of a stack has for all, as positions in T5."""
        first, *others = self.numbers(stack)
        held = self.by_layer[stack, first]
        return {
            end: name
            for end, name in held.items()
            if _FOR_ALL.search(end)
            and others
            and not any(end in self.by_layer[stack, number] for number in others)
        }

    def outside(self, parts: Mapping[str, Part]) -> list[str]:
        """Return the tensors that are in no layer of the parts' stacks."""
        stacks = {part.stack for part in parts.values()}
        layers = {name: self.layers.layer(name) for name in self.checkpoint.tensors}
        return [name for name, one in layers.items() if one is None or one.stack not in stacks]

    def numbers(self, stack: str) -> list[int]:
        """Return the numbers of the layers of a stack."""
        return sorted(number for one, number in self.by_layer if one == stack)


def refuse_widths(made: Stack) -> None:
    """Refuse layers of models that have other shapes than those of the models before them.

    Layers of one model may differ.

    Raises:
        InputError: No layer of a model has the shape that the others' have; or embedding and head
            are those of models with different vocabularies or widths.
    """
    layers = Layers(made.template.tensors)
    shapes: dict[str, dict[Path, dict[tuple[int, ...], TensorInfo]]] = {}
    for name, info in made.template.tensors.items():
        if (layer := layers.layer(name)) is not None:
            end = layer.stack + name[len(layer.label) :]
            shapes.setdefault(end, {}).setdefault(info.path, {})[info.shape] = info
    for by_model in shapes.values():
        first, *others = by_model.values()
        for other in others:
            if not first.keys() & other.keys():
                a, b = next(iter(first.values())), next(iter(other.values()))
                raise InputError(
                    f"{b.path}: tensor {show(b.name)} has shape {list(b.shape)}, and "
                    f"{show(a.name)} of {a.path} {list(a.shape)}; stack layers of models of one "
                    "shape"
                )
    _refuse_vocabularies(made.template)


def _refuse_vocabularies(template: Checkpoint) -> None:
    """Refuse an embedding and a head of two models that have other rows or widths."""
    found = template.tensors.items()
    heads = [info for name, info in found if is_head(name) and len(info.shape) == 2]
    embeddings = [info for name, info in found if is_embedding(name) and len(info.shape) == 2]
    for a in embeddings[:1]:
        for b in heads:
            if a.path == b.path or a.shape == b.shape:
                continue
            way = (
                "join the vocabularies with 'tokenizer_source: union' (or base, or a model), or "
                "take the rows that all have with 'embeddings: truncate'"
                if a.shape[0] != b.shape[0]
                else "stack layers of models of one shape"
            )
            raise InputError(
                f"{b.path}: tensor {show(b.name)}, behind the last layer, has shape "
                f"{list(b.shape)}, and {show(a.name)} of {a.path}, before the first, "
                f"{list(a.shape)}; {way}"
            )
