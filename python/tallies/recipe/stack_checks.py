"""Check the slices of a recipe: their parameters, their lengths, and the models in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import InputError
from ..messages import show
from ..methods._method import Method
from ..spec.choices import Semantics
from .by_order import refuse_order
from .places import Places
from .stacks import ModuleEntry, SliceEntry, SourceEntry, all_placed, roles

Check = Callable[..., dict[str, Any]]
"""Checks parameters of a place in the recipe."""


def checked_module(module: ModuleEntry, where: str, check: Check) -> ModuleEntry:
    """Return a module with its parameters, and those below it, checked.

    Args:
        module: The module.
        where: Its place in the recipe; empty where the recipe names none.
        check: Checks parameters; of one model with ``per_model``.

    Raises:
        InputError: Parameters are wrong, or sources of a slice have different numbers of layers.
    """
    before = f"{where}: " if where else ""
    slices = []
    for number, one in enumerate(module.slices):
        place = f"{before}slices[{number}]"
        if not one.sources:
            raise InputError(f"{place}: found no sources, expected [{{model: DIR, ...}}]")
        for source in one.sources[1:]:
            _refuse_other_length(source, one, place)
        sources = tuple(
            source.model_copy(
                update={
                    "parameters": check(
                        source.parameters, where=f"{place}: model {source.model!r}", per_model=True
                    )
                }
            )
            for source in one.sources
        )
        given = check(one.parameters, where=f"{place}: parameters")
        slices.append(one.model_copy(update={"sources": sources, "parameters": given}))
    if not slices:
        raise InputError(f"{before}slices: found none, expected [{{sources: [...]}}]")
    given = check(module.parameters, where=f"{before}parameters")
    return module.model_copy(update={"slices": tuple(slices), "parameters": given})


def _refuse_other_length(source: SourceEntry, one: SliceEntry, place: str) -> None:
    first = one.sources[0]
    n, expected = ((e.layer_range or (0, 0)) for e in (source, first))
    if n[1] - n[0] != expected[1] - expected[0]:
        raise InputError(
            f"{place}: model {source.model!r} gives {n[1] - n[0]} layers ({n[0]} to {n[1] - 1}), "
            f"and {first.model!r} {expected[1] - expected[0]}; give all sources of a slice as "
            "many layers"
        )


def refuse_stack(
    modules: Mapping[str, ModuleEntry],
    base_model: str | None,
    method: type[Method],
    semantics: Semantics,
    shared: Mapping[str, Any],
    places: Places,
) -> None:
    """Refuse slices that the method cannot merge.

    Raises:
        InputError: The base is not among the sources of a slice, the number of the others does not
            suit the method, a parameter without a default is missing, or one orders the models.
    """
    takes_base = method.forms_task_vectors(has_base=True) or method.base_is_first
    for where, module, one in all_placed(modules):
        base, experts = roles(one, base_model, method, places)
        if takes_base and (text := one.base_model or base_model):
            _refuse_without_base(where, one, text, method, places)
        elif method.base_is_first and semantics is Semantics.MERGEKIT:
            raise InputError(
                f"{where}: {method.name} in {semantics} semantics needs a base_model among the "
                f"sources; add 'base_model: {one.sources[0].model}'"
            )
        problem = method.number_objection(len(experts))
        if problem and not (base is not None and not experts):
            raise InputError(f"{where}: sources: {problem}")
        refuse_order(method, {**shared, **module.parameters, **one.parameters}, where)
        for key, parameter in method.parameters(semantics).items():
            near = {*one.parameters, *module.parameters, *shared}
            if parameter.default is not None or key in near:
                continue
            for source in experts if parameter.per_model else [None]:
                if source is None or key not in source.parameters:
                    of = f"model {source.model!r}: " if source else ""
                    raise InputError(
                        f"{where}: {of}{key!r} is missing, and {method.name} has no default for it "
                        f"in {semantics} semantics; add '{key}: VALUE'"
                    )


def _refuse_without_base(
    where: str, one: SliceEntry, base: str, method: type[Method], places: Places
) -> None:
    if not any(places.identity(source.model) == places.identity(base) for source in one.sources):
        raise InputError(
            f"{where}: {method.name} needs the layers of base_model {show(base)}, and it is not "
            "among the sources; add '{model: BASE, layer_range: [FIRST, END]}' to them"
        )
