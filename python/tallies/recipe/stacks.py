"""The entries of a recipe whose layers are stacked of slices: ``slices`` and ``modules``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SerializerFunctionWrapHandler,
    StrictInt,
    model_serializer,
)

from ..messages import show
from ..methods._method import Method
from .fields import Parameters, PathText
from .models import ModelEntry
from .places import Places


def _range(value: object) -> object:
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 2
        or not all(type(one) is int for one in value)
    ):
        raise ValueError(f"found {show(value)}, expected [FIRST, END], such as [0, 16]")
    first, end = value
    if not 0 <= first < end:
        raise ValueError(
            f"found {show(value)}, expected [FIRST, END] with layers in between: layer END is the "
            "first that is not taken"
        )
    return (first, end)


LayerRange = Annotated[tuple[StrictInt, StrictInt], BeforeValidator(_range)]
"""The first layer, and the one behind the last."""


class SourceEntry(BaseModel):
    """Layers of a model, with parameters of their own."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    model: PathText
    layer_range: LayerRange | None = None
    """None for all layers."""
    parameters: Parameters = {}


class SliceEntry(BaseModel):
    """Layers of the result, merged of as many layers of each source."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    sources: tuple[SourceEntry, ...]
    base_model: PathText | None = None
    parameters: Parameters = {}


class ModuleEntry(BaseModel):
    """A part of the model with a stack of layers, such as its text decoder."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    slices: tuple[SliceEntry, ...]
    parameters: Parameters = {}

    @model_serializer(mode="wrap")
    def _with_models(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return plain data, in which a slice of whole models is written as ``models``."""
        data = plain(self)
        sources = self.slices[0].sources
        if sources[0].layer_range is not None:
            return dict(data)
        models = [
            {key: one[key] for key in ("model", "parameters") if key in one}
            for one in data["slices"][0]["sources"]
        ]
        return {"models": models, **{key: one for key, one in data.items() if key != "slices"}}


@dataclass(frozen=True)
class Origin:
    """The sources of one tensor of a stacked result."""

    where: str
    """The slice, as messages name it: ``slices[0]``."""
    names: tuple[str, ...]
    """The tensor's own name in each model that takes part, without the base, in order."""
    experts: tuple[int, ...]
    """Their numbers among the experts of the merge."""
    sources: tuple[SourceEntry, ...]
    slice: SliceEntry
    module: ModuleEntry
    position: float
    """The position in the slice, from 0 to 1; 0 outside the layers."""


def modules_of(
    slices: tuple[SliceEntry, ...] | None, modules: Mapping[str, ModuleEntry] | None
) -> dict[str, ModuleEntry]:
    """Return the modules of a recipe; that of a model with one module has no name."""
    if slices is not None:
        return {"": ModuleEntry(slices=slices)}
    return dict(modules or {})


def placed(name: str, module: ModuleEntry) -> Iterator[tuple[str, SliceEntry]]:
    """Yield every slice of a module with its place in the recipe, for messages."""
    for number, one in enumerate(module.slices):
        where = f"slices[{number}]"
        yield (f"modules: {name}: {where}" if name else where), one


def all_placed(
    modules: Mapping[str, ModuleEntry],
) -> Iterator[tuple[str, ModuleEntry, SliceEntry]]:
    """Yield every slice of all modules with its place and its module."""
    for name, module in modules.items():
        for where, one in placed(name, module):
            yield where, module, one


def restate_module(module: ModuleEntry, text: Callable[[str], str]) -> ModuleEntry:
    """Return a module with ``text`` applied to the text of every model."""

    def source(entry: SourceEntry) -> SourceEntry:
        return entry.model_copy(update={"model": text(entry.model)})

    slices = tuple(
        one.model_copy(
            update={
                "sources": tuple(map(source, one.sources)),
                "base_model": one.base_model and text(one.base_model),
            }
        )
        for one in module.slices
    )
    return module.model_copy(update={"slices": slices})


def roles(
    one: SliceEntry, base_model: str | None, method: type[Method], places: Places
) -> tuple[SourceEntry | None, list[SourceEntry]]:
    """Return the base of a slice, where task vectors are formed from one, and the experts in order.

    A method for which a base is the first of the models has the base there.
    """
    base = one.base_model or base_model
    at = [
        source
        for source in one.sources
        if base is not None and places.identity(source.model) == places.identity(base)
    ]
    if not at or not (method.forms_task_vectors(has_base=True) or method.base_is_first):
        return None, [*one.sources]
    others = [source for source in one.sources if source is not at[0]]
    if method.base_is_first:
        return None, [at[0], *others]
    return at[0], others


def stacked_experts(
    modules: Mapping[str, ModuleEntry],
    base_model: str | None,
    method: type[Method],
    places: Places,
) -> tuple[list[ModelEntry], list[str]]:
    """Return an entry for each model that takes part in some slice and is not the base there.

    A model that is in a slice twice has an entry for each time, and there is a warning of it.
    """
    found: dict[tuple[str, int], ModelEntry] = {}
    twice: dict[str, None] = {}
    for _, _, one in all_placed(modules):
        for (_, n), source in counted_sources(one.sources, places):
            if n:
                twice.setdefault(ModelEntry(model=source.model).label)
        _, experts = roles(one, base_model, method, places)
        for key, source in counted_sources(experts, places):
            found.setdefault(key, ModelEntry(model=source.model))
    warnings = [f"{label} is twice in a slice and counts twice" for label in twice]
    return [*found.values()], warnings


def counted_sources(
    experts: Iterable[SourceEntry], places: Places
) -> Iterator[tuple[tuple[str, int], SourceEntry]]:
    """Yield each source with its model's identity, and how often the slice had that before."""
    seen: dict[str, int] = {}
    for source in experts:
        identity = places.identity(source.model)
        yield (identity, seen.get(identity, 0)), source
        seen[identity] = seen.get(identity, 0) + 1
