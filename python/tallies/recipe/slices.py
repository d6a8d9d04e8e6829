"""Read mergekit's ``slices`` and ``modules`` that mean whole models as ``models``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.json_text import is_object, json_object, read_text
from ..errors import InputError
from ..messages import counted, show
from .layers import Layers
from .places import Places
from .spelling import model_text

_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")

_WAY_OUT = (
    "layers are not stacked, repeated or left out; list whole models under 'models', and give "
    "parameters that differ by layer as lists of values"
)


def without_slices(data: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Return a recipe whose slices that are whole models stand under ``models``.

    The slices of all models must begin with layer 0, follow each other, and end with the last
    layer, which config.json says or else the names of the tensors.

    Args:
        data: The recipe as plain data.
        places: The directories from which the texts of the models lead to paths.

    Raises:
        InputError: The slices ask for other models than whole ones.
    """
    recipe = _default_module(data)
    slices = recipe.pop("slices", None)
    if slices is None:
        return recipe
    if recipe.get("models"):
        raise InputError("slices: the recipe has 'models' too; keep one of the two")
    rows = [_sources(number, one) for number, one in enumerate(_list(slices, "slices"))]
    names = [[model_text(source.get("model")) for source in row] for row in rows]
    if any(row != names[0] for row in names):
        raise InputError(f"slices: not all have the same models in the same order; {_WAY_OUT}")
    models = []
    for place, name in enumerate(names[0]):
        sources = [row[place] for row in rows]
        _refuse_parts(str(name), [source.get("layer_range") for source in sources], places)
        entry = {"model": name}
        if parameters := _same(sources, "parameters", f"slices: model {show(name)}"):
            entry["parameters"] = parameters
        models.append(entry)
    shared = _same(slices, "parameters", "slices") or {}
    if len(rows) > 1:
        _refuse_gradients([*(one for row in rows for one in row), *slices, recipe])
    if base := _same(slices, "base_model", "slices"):
        recipe["base_model"] = base
    recipe["models"] = models
    recipe["parameters"] = _joined(shared, recipe.get("parameters") or {})
    return recipe


def _default_module(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe with the contents of its only module in the place of ``modules``."""
    recipe = dict(data)
    modules = recipe.get("modules")
    if not is_object(modules) or len(modules) != 1:
        return recipe
    (module,) = modules.values()
    if is_object(module) and module and set(module) <= {"models", "slices"}:
        del recipe["modules"]
        recipe |= module
    return recipe


def _list(value: object, where: str) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError(f"{where}: found {show(value)}, expected a list")
    return value


def _sources(number: int, one: object) -> list[dict[str, Any]]:
    where = f"slices[{number}]"
    if not is_object(one):
        raise InputError(f"{where}: found {show(one)}, expected {{sources: [...]}}")
    for key in one:
        if key not in ("sources", "parameters", "base_model"):
            raise InputError(f"{where}: {key}: is not done; {_WAY_OUT}")
    sources = []
    for source in _list(one.get("sources"), f"{where}.sources"):
        if not is_object(source) or "model" not in source:
            raise InputError(
                f"{where}: found {show(source)}, expected {{model: DIR, layer_range: [0, N]}}"
            )
        for key in source:
            if key not in ("model", "layer_range", "parameters"):
                raise InputError(f"{where}: {key}: is not done; {_WAY_OUT}")
        sources.append(source)
    return sources


def _refuse_parts(name: str, ranges: Sequence[object], places: Places) -> None:
    """Raise InputError unless the layer ranges of a model are all of its layers, in order."""
    end = 0
    for one in ranges:
        if not (
            isinstance(one, (list, tuple))
            and len(one) == 2
            and all(isinstance(layer, int) for layer in one)
        ):
            raise InputError(
                f"slices: model {show(name)}: layer_range is {show(one)}, expected [0, N]"
            )
        first, last = one
        if first != end or last <= first:
            raise InputError(
                f"slices: model {show(name)}: layers {first} to {last} follow layer {end}; "
                f"{_WAY_OUT}"
            )
        end = last
    if (n_layers := _n_layers(name, places)) != end:
        raise InputError(
            f"slices: model {show(name)}: has {counted(n_layers, 'layer')}, and the slices "
            f"take {end}; {_WAY_OUT}"
        )


def _refuse_gradients(owners: Sequence[Mapping[str, Any]]) -> None:
    """Refuse values that vary by layer: in mergekit they begin anew in each slice."""
    for owner in owners:
        for key, value in (owner.get("parameters") or {}).items():
            rules = value if _has_rules(value) else [{"value": value}]
            if any(isinstance(rule.get("value"), list) for rule in rules):
                raise InputError(
                    f"slices: the values of {key!r} vary by layer, and would begin anew in each "
                    "slice; take one slice of all layers, or list whole models under 'models'"
                )


def _n_layers(name: str, places: Places) -> int:
    """Return the number of layers of a model, by its config.json or else by its tensors' names."""
    file = Path(places.headers(name, weights=False), "config.json")
    config = json_object(read_text(file), str(file)) if file.is_file() else {}
    for part in (config, config.get("text_config")):
        for key in _LAYER_COUNTS:
            if is_object(part) and isinstance(part.get(key), int):
                return int(part[key])
    layers = Layers(Checkpoint.open(places.headers(name)).tensors)
    return layers.n_of_largest_stack()


def _same(owners: Sequence[Mapping[str, Any]], key: str, where: str) -> Any:
    """Return the value that all slices have of a key."""
    first = owners[0].get(key)
    if any(owner.get(key) != first for owner in owners):
        raise InputError(f"{where}: {key} differ from slice to slice; {_WAY_OUT}")
    return first


def _joined(near: Mapping[str, Any], far: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters of which the near ones come first; of rules, those of both."""
    found = dict(far)
    for key, value in near.items():
        rules = isinstance(value, list) and all(map(is_object, value))
        if rules and all(rule.get("filter") not in (None, "*") for rule in value) and key in far:
            rest = far[key] if _has_rules(far[key]) else [{"value": far[key]}]
            found[key] = [*value, *rest]
        else:
            found[key] = value
    return found


def _has_rules(value: object) -> bool:
    return isinstance(value, list) and all(map(is_object, value))
