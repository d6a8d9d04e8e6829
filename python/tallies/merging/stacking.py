"""Finds the tensors of a result whose layers are stacked of slices of models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..checkpoint.buffers import is_buffer
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.stacked import LayerOf, is_before_layers, stacked, with_tensors
from ..checkpoint.tensors import TensorInfo
from ..checkpoint.tied import is_head
from ..errors import InputError
from ..messages import counted, show, some
from ..recipe.config import MergeConfig
from ..recipe.layers import Layer
from ..recipe.stacks import (
    Origin,
    SliceEntry,
    SourceEntry,
    all_placed,
    counted_sources,
    placed,
    roles,
)
from ..spec.choices import MERGEKIT
from .stack import Place, Stack, StackedModel
from .stack_modules import Part, owner, parts_of


def stack(
    config: MergeConfig, opened: Mapping[str, Checkpoint], template: Checkpoint, text: str
) -> Stack:
    """Return the stack of layers that a request asks for.

    Args:
        config: The request.
        opened: Each model by its text, with the heads that the result is to have.
        template: The model whose small files, and file names, the result gets.
        text: Its text.

    Raises:
        InputError: A model lacks layers that are asked for, or tensors that the others have.
    """
    return _Stacking(config, opened, template, text).made()


class _Stacking:
    def __init__(
        self,
        config: MergeConfig,
        opened: Mapping[str, Checkpoint],
        template: Checkpoint,
        text: str,
    ) -> None:
        self._config = config
        self._models = {name: StackedModel(name, one) for name, one in opened.items()}
        self._template = template
        self._places = config.places
        self._numbers: dict[tuple[str, int], int] = {}
        self._experts: list[StackedModel] = []
        for _, _, one in all_placed(config.stack):
            for key, source in counted_sources(self._roles(one)[1], config.places):
                if key not in self._numbers:
                    self._numbers[key] = len(self._experts)
                    self._experts.append(self._models[source.model])
        self._names: list[dict[str, str]] = [{} for _ in self._experts]
        self._taken: list[dict[str, Layer]] = [{} for _ in self._experts]
        self._taken_of_base: dict[str, Layer] = {}
        self._first: dict[str, TensorInfo] = {}
        self._base: dict[str, TensorInfo] = {}
        self._origins: dict[str, Origin] = {}
        self._layers: dict[str, list[LayerOf]] = {}
        self._moved: dict[str, None] = {}
        self._leading = StackedModel(text, template).layers
        named = [one for one in config.stack if one]
        self._parts = parts_of(self._leading, template, named)

    def made(self) -> Stack:
        """Return the stack."""
        for name, module in self._config.stack.items():
            part, number = self._parts[name], 0
            for where, one in placed(name, module):
                for i, position, held in self._layers_of(where, one, part):
                    self._add(Place(where, module, one, position, i), held, f"{part.stack}{number}")
                    number += 1
            for is_first, place in ((True, 0), (False, -1)):
                where, one = [*placed(name, module)][place]
                if not is_first:
                    one = self._last(one, len(module.slices[0].sources))
                outside = [
                    {
                        own: own
                        for own in self._models[source.model].outside(self._parts)
                        if is_before_layers(own) is is_first and owner(own, self._parts) == name
                    }
                    for source in one.sources
                ]
                self._add(Place(where, module, one, 0.0), outside, "")
        return Stack(
            template=with_tensors(self._template, self._first),
            base=with_tensors(self._template, self._base),
            experts=tuple(
                stacked(model.checkpoint, names)
                for model, names in zip(self._experts, self._names, strict=True)
            ),
            taken=tuple(tuple(one.values()) for one in self._taken),
            taken_of_base=tuple(self._taken_of_base.values()),
            origins=dict(sorted(self._origins.items())),
            layers={self._parts[name]: held for name, held in self._layers.items()},
            warnings=[
                f"slices: model {one} is of the first layer for all layers, and stands in the "
                "first of the result alone"
                for one in self._moved
            ],
        )

    def _last(self, one: SliceEntry, n: int) -> SliceEntry:
        """Return the last slice as its sources merge what is behind the layers.

        mergekit takes as many of them as the first slice has.
        """
        cut = one.model_copy(update={"sources": one.sources[:n]})
        if self._config.semantics is not MERGEKIT or self._roles(one)[2] not in cut.sources:
            return one
        return cut

    def _layers_of(
        self, where: str, one: SliceEntry, part: Part
    ) -> Iterator[tuple[int, float, list[Mapping[str, str]]]]:
        """Yield number, position and, for each source, the tensors of each layer of a slice."""
        if not part.stack:
            if one.sources[0].layer_range is not None:
                known = some([*self._leading.stacks()])
                raise InputError(
                    f"{where}: no layers are found for a module of this name; the stacks of layers "
                    f"are {known}; name the module text_decoder, vision_tower, encoder or decoder, "
                    "or give it 'models'"
                )
            return
        models = [self._models[source.model] for source in one.sources]
        stacks = [self._stack_of(model, part, where) for model in models]
        found = [
            self._numbers_of(model, stack, source, where)
            for model, stack, source in zip(models, stacks, one.sources, strict=True)
        ]
        if len({len(numbers) for numbers in found}) > 1:
            raise InputError(
                f"{where}: the models have {', '.join(str(len(numbers)) for numbers in found)} "
                "layers; give a layer_range of as many layers for each"
            )
        leader = one.sources.index(self._roles(one)[2])
        for i, numbers in enumerate(zip(*found, strict=True)):
            picked = LayerOf(part.config(models[leader].checkpoint), numbers[leader])
            self._layers.setdefault(part.name, []).append(picked)
            last = len(found[0]) - 1
            is_first = len(self._layers[part.name]) == 1
            held = [
                self._layer(model, stack, number, is_first)
                for model, stack, number in zip(models, stacks, numbers, strict=True)
            ]
            yield i, i / last if last else 1.0, held

    def _layer(
        self, model: StackedModel, stack: str, number: int, is_first: bool
    ) -> Mapping[str, str]:
        """Return the tensors of a layer; those that are in the first for all are in the first."""
        own, for_all = model.by_layer[stack, number], model.first_alone(stack)
        held = {end: name for end, name in own.items() if end not in for_all}
        if is_first:
            held |= for_all
        for end, name in for_all.items():
            if (name in held.values()) is not (end in own):
                self._moved.setdefault(f"{model.text!r}: {name!r}")
        return held

    def _stack_of(self, model: StackedModel, part: Part, where: str) -> str:
        """Return the stack of a model that a part means."""
        known = {stack for stack, _ in model.by_layer}
        if part.stack in known:
            return part.stack
        found = parts_of(model.layers, model.checkpoint, [part.name] if part.name else [])
        if found[part.name].stack in known:
            return found[part.name].stack
        raise InputError(f"{where}: model {model.text!r}: has no layers {show(part.stack)}")

    def _roles(self, one: SliceEntry) -> tuple[SourceEntry | None, list[SourceEntry], SourceEntry]:
        base, experts = roles(one, self._config.base_model, self._config.method, self._places)
        return base, experts, base or experts[0]

    def _numbers_of(
        self, model: StackedModel, stack: str, source: SourceEntry, where: str
    ) -> Sequence[int]:
        """Return the numbers of the layers that a source gives."""
        numbers = model.numbers(stack)
        if source.layer_range is None:
            return numbers
        first, end = source.layer_range
        known = set(numbers)
        # The search ends at the first gap, however long the range is.
        missing = next((one for one in range(first, end) if one not in known), None)
        if missing is not None:
            raise InputError(
                f"{where}: model {model.text!r}: has no layer {missing}, and layer_range is "
                f"[{first}, {end}]; it has {counted(len(numbers), 'layer')}, {numbers[0]} to "
                f"{numbers[-1]}: give [FIRST, END] with END at most {numbers[-1] + 1}"
            )
        return range(first, end)

    def _add(self, place: Place, held: Sequence[Mapping[str, str]], before: str) -> None:
        """Add the tensors of a layer, or those outside of the layers before or behind them.

        Args:
            place: The place in the recipe that they follow.
            held: For each source its own names, by what follows ``before`` in the result.
            before: The layer in the result.
        """
        one = place.slice
        base, experts, first = self._roles(one)
        own = dict(zip(map(id, one.sources), held, strict=True))
        self._check_names(place, own, first)
        for end in own[id(first)]:
            new = before + end
            infos = {
                id(source): self._models[source.model].checkpoint.tensors[own[id(source)][end]]
                for source in one.sources
                if end in own[id(source)]
            }
            _check_shapes(place, infos, first)
            self._first[new] = infos[id(first)]
            if base is not None:
                self._base[new] = infos[id(base)]
                layer = self._models[base.model].layers.layer(own[id(base)][end])
                if place.number is not None and layer is not None:
                    self._taken_of_base.setdefault(before, layer)
            # Only buffers may be in the first model alone.
            taken = [
                (self._numbers[key], source)
                for key, source in counted_sources(experts, self._places)
                if id(source) in infos
            ]
            for number, source in taken:
                name = own[id(source)][end]
                self._names[number][new] = name
                layer = self._models[source.model].layers.layer(name)
                if place.number is not None and layer is not None:
                    self._taken[number].setdefault(before, layer)
            self._origins[new] = Origin(
                where=place.where,
                names=tuple(own[id(source)][end] for _, source in taken),
                experts=tuple(number for number, _ in taken),
                sources=tuple(source for _, source in taken),
                slice=one,
                module=place.module,
                position=place.position,
            )

    def _check_names(
        self, place: Place, own: Mapping[int, Mapping[str, str]], first: SourceEntry
    ) -> None:
        """Refuse sources whose layers have other tensors than those of the first."""
        for source in place.slice.sources:
            for a, b in ((first, source), (source, first)):
                tensors = self._models[a.model].checkpoint.tensors
                lacks = [
                    name
                    for end, name in own[id(a)].items()
                    if end not in own[id(b)] and not is_buffer(name, tensors[name].shape)
                ]
                if lacks:
                    more = f" and {len(lacks) - 1} more" if lacks[1:] else ""
                    way = (
                        "give every model a head of its own with 'tied: untie' (--tied untie)"
                        if is_head(lacks[0])
                        else "slices take layers of one kind from models of one architecture"
                    )
                    raise InputError(
                        f"{place.where}: {place.layer(b)}model {b.model!r} lacks tensor "
                        f"{show(lacks[0])} of {a.model!r}{more}; {way}"
                    )


def _check_shapes(place: Place, infos: Mapping[int, TensorInfo], first: SourceEntry) -> None:
    expected = infos[id(first)]
    for source in place.slice.sources:
        info = infos.get(id(source))
        if info is not None and info.shape != expected.shape:
            raise InputError(
                f"{place.where}: tensor {show(info.name)} of model {source.model!r} has shape "
                f"{list(info.shape)}, {show(expected.name)} of {first.model!r} has "
                f"{list(expected.shape)}; merge layers of one shape"
            )
