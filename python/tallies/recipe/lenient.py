"""Leave out the parts of a recipe that mergekit passes over, in its semantics, and say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import methods
from ..messages import show
from ..methods._method import Method
from ..spec.choices import MERGEKIT
from .plain_stacks import owners

_OF_OTHERS = frozenset({"t", "scale", "weight", "density", "normalize", "rescale", "int8_mask"})
"""Parameters of mergekit's methods, those among them that are not done here too."""


def without_passed_over(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a recipe without what mergekit passes over, and a warning for each such thing.

    mergekit reads the parameters that its method has and no others; those of the recipe that hold
    for all models it reads there alone; an empty list it takes for none; and rules behind one that
    fits every name it never reaches. Keys that begin as those of notes do, with ``x-``, ``_`` or a
    dot, hold what YAML repeats elsewhere.
    A name that no method of mergekit has is a slip, and stays for the checks to refuse.

    Args:
        data: The recipe as plain data, its models as mappings.
    """
    recipe = dict(data)
    name = methods.proper_name(recipe.get("merge_method"))
    if recipe.get("semantics") != MERGEKIT or name not in methods.names():
        return recipe, []
    method = methods.get(str(name))
    warnings: list[str] = []
    notes = [key for key in recipe if key.startswith(("x-", "_", "."))]
    for key in notes:
        warnings.append(f"{key}: passed over, as a note")
        del recipe[key]
    recipe |= _read(recipe, method, "parameters", warnings, per_model=False)
    entries = recipe.get("models")
    if isinstance(entries, (list, tuple)):
        recipe["models"] = [
            {**entry, **_read(entry, method, _label(entry), warnings, per_model=True)}
            if isinstance(entry, Mapping)
            else entry
            for entry in entries
        ]
    for model, owner in owners(recipe):
        where = f"model {show(model)}" if model else "slices: parameters"
        owner |= _read(owner, method, where, warnings, per_model=bool(model))
    return recipe, list(dict.fromkeys(warnings))


def _label(entry: Mapping[str, Any]) -> str:
    return f"model {show(entry.get('model'))}"


def _read(
    owner: Mapping[str, Any],
    method: type[Method],
    where: str,
    warnings: list[str],
    *,
    per_model: bool,
) -> dict[str, Any]:
    """Return the parameters that mergekit reads, as a mapping to update their owner with."""
    given = owner.get("parameters")
    if not isinstance(given, Mapping):
        return {}
    known = {
        alias: one
        for key, one in method.parameters(MERGEKIT).items()
        for alias in (key, *one.aliases)
    }
    read = {}
    for name, value in given.items():
        if isinstance(value, (list, tuple)) and not value:
            warnings.append(f"{where}: {name}: passed over, the list is empty")
        elif name not in known and is_of_others(name):
            warnings.append(f"{where}: {name}: passed over, {method.name} of mergekit has it not")
        elif per_model and name in known and not known[name].per_model:
            warnings.append(
                f"{where}: {name}: passed over, mergekit has it under 'parameters' only"
            )
        else:
            read[name] = _reached(value, f"{where}: {name}", warnings)
    return {"parameters": read}


def is_of_others(name: str) -> bool:
    """Return whether some method of mergekit has a parameter of this name."""
    return name in _OF_OTHERS or any(
        name in (key, *parameter.aliases)
        for one in methods.names()
        if MERGEKIT in methods.get(one).semantics
        for key, parameter in methods.get(one).parameters(MERGEKIT).items()
    )


def _reached(value: Any, where: str, warnings: list[str]) -> Any:
    """Return a list of rules up to the first that fits every name; other values as they are."""
    if not isinstance(value, list):
        return value
    for number, rule in enumerate(value[:-1], 1):
        fits_all = isinstance(rule, Mapping) and rule.get("filter") in (None, "*")
        if fits_all and all(isinstance(one, Mapping) for one in value):
            warnings.append(f"{where}: the rules behind the one without a filter are never reached")
            return value[:number]
    return value
