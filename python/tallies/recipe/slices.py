"""Check the form of ``slices`` and ``modules``, and read those of whole models as ``models``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import methods
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.json_text import is_object, json_object, read_text
from ..errors import InputError
from ..messages import show, unknown
from .layers import Layers
from .places import Places
from .plain_stacks import with_models
from .spelling import model_text
from .stages import with_names

_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def without_slices(data: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Return a recipe whose slices that are whole models stand under ``models``.

    Slices are whole models if those of all models begin with layer 0, follow each other, and end
    with the last layer, which config.json says or else the names of the tensors; and if no
    parameter is another one in another slice. Other slices stay, with the texts of their models.

    Args:
        data: The recipe as plain data.
        places: The directories from which the texts of the models lead to paths.

    Raises:
        InputError: The slices are no lists of sources with layers of models, or the recipe has
            several of ``models``, ``slices`` and ``modules``.
    """
    recipe, places = _default_module(data), with_names(data, places)
    given = [key for key in ("models", "slices", "modules") if recipe.get(key)]
    if len(given) > 1:
        raise InputError(f"{given[1]}: the recipe has {given[0]!r} too; keep one of the two")
    if recipe.get("modules") is not None:
        return _of_modules(recipe, places)
    slices = recipe.pop("slices", None)
    if slices is None:
        return recipe
    slices = _slices(slices, "slices")
    _require_objects(recipe, slices)
    models = _whole_models(slices, places)
    if models is None or (len(slices) > 1 and _has_gradients(slices, recipe)):
        return with_models({**recipe, "slices": slices, **_base_of(recipe, slices)})
    if base := slices[0].get("base_model"):
        recipe["base_model"] = base
    shared = slices[0].get("parameters") or {}
    recipe["models"] = models
    recipe["parameters"] = _joined(shared, recipe.get("parameters") or {})
    return recipe


def _require_objects(recipe: Mapping[str, Any], slices: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError for parameters, of the recipe, a slice or a source, that are no object."""
    owners = [("", recipe)]
    for number, one in enumerate(slices):
        owners.append((f"slices[{number}].", one))
        owners += [(f"slices[{number}].sources: ", source) for source in one["sources"]]
    for where, owner in owners:
        given = owner.get("parameters")
        if given and not is_object(given):
            raise InputError(
                f"{where}parameters: found {show(given)}, expected an object of parameters"
            )


def _of_modules(recipe: dict[str, Any], places: Places) -> dict[str, Any]:
    """Return a recipe whose modules have slices, or whole models if all modules have the same."""
    modules = recipe["modules"]
    if not is_object(modules) or not modules:
        raise InputError(f"modules: found {show(modules)}, expected {{NAME: {{slices: [...]}}}}")
    for name, module in modules.items():
        where = f"modules: {name}"
        if not is_object(module) or bool(module.get("models")) == bool(module.get("slices")):
            raise InputError(f"{where}: found {show(module)}, expected 'models' or 'slices'")
        for key in module:
            if key not in ("models", "slices", "parameters"):
                raise InputError(f"{where}: key {unknown(key, ('models', 'slices', 'parameters'))}")
    first, *others = modules.values()
    if first.get("models") and not first.get("parameters") and all(o == first for o in others):
        return {**{key: one for key, one in recipe.items() if key != "modules"}, **first}
    found = {}
    for name, module in modules.items():
        if module.get("models"):
            slices = [{"sources": _whole_sources(module["models"], name, recipe, places)}]
        else:
            slices = _slices(module["slices"], f"modules: {name}: slices")
        given = module.get("parameters")
        found[name] = {"slices": slices, **({"parameters": given} if given else {})}
    every = [one for module in found.values() for one in module["slices"]]
    return with_models({**recipe, "modules": found, **_base_of(recipe, every)})


def _base_of(recipe: Mapping[str, Any], slices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the base of a recipe whose slices alone name one: that of the first of them."""
    bases = [one.get("base_model") for one in slices]
    return {"base_model": bases[0]} if not recipe.get("base_model") and all(bases) else {}


def _whole_sources(
    models: object, name: str, recipe: Mapping[str, Any], places: Places
) -> list[dict[str, Any]]:
    """Return sources of all layers of a module's models, with the base as mergekit adds it."""
    found = []
    for one in _list(models, f"modules: {name}: models"):
        entry = one if is_object(one) and "model" in one else {"model": one}
        if set(entry) - {"model", "parameters"}:
            raise InputError(
                f"modules: {name}: found {show(one)}, expected {{model: DIR, parameters: ...}}"
            )
        found.append({**entry, "model": model_text(entry["model"])})
    base = model_text(recipe.get("base_model"))
    method = methods.proper_name(recipe.get("merge_method"))
    if isinstance(base, str) and method in methods.names():
        takes_base = methods.get(str(method)).forms_task_vectors(has_base=True)
        listed = [places.identity(str(entry["model"])) for entry in found]
        if takes_base and places.identity(base) not in listed:
            found.append({"model": base})
    return found


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


def _slices(value: object, where: str) -> list[dict[str, Any]]:
    """Return slices with the texts of their models, in new lists and dicts."""
    return [_slice(one, f"{where}[{n}]") for n, one in enumerate(_list(value, where))]


def _slice(one: object, where: str) -> dict[str, Any]:
    if not is_object(one):
        raise InputError(f"{where}: found {show(one)}, expected {{sources: [...]}}")
    known = ("sources", "parameters", "base_model")
    for key in one:
        if key == "residual_weight" and one[key] is not None:
            raise InputError(f"{where}: {key}: no method of mergekit reads it; remove it")
        if key not in (*known, "residual_weight"):
            raise InputError(f"{where}: key {unknown(key, known)}")
    sources = []
    for source in _list(one.get("sources"), f"{where}.sources"):
        if not is_object(source) or "model" not in source:
            raise InputError(
                f"{where}: found {show(source)}, expected {{model: DIR, layer_range: [0, N]}}"
            )
        for key in source:
            if key not in ("model", "layer_range", "parameters"):
                near = unknown(key, ("model", "layer_range", "parameters"))
                raise InputError(f"{where}: sources: key {near}")
        text = model_text(source["model"])
        if not _is_range(source.get("layer_range")):
            raise InputError(
                f"{where}: model {show(text)}: layer_range is {show(source.get('layer_range'))}, "
                "expected [FIRST, END], such as [0, 16]: layer END is the first that is not taken"
            )
        sources.append({**source, "model": text})
    found = {key: one[key] for key in known if one.get(key) is not None}
    if "base_model" in found:
        found["base_model"] = model_text(found["base_model"])
    return {**found, "sources": sources}


def _is_range(value: object) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(type(layer) is int for layer in value)
        and 0 <= value[0] < value[1]
    )


def _whole_models(
    slices: Sequence[Mapping[str, Any]], places: Places
) -> list[dict[str, Any]] | None:
    """Return the models of which the slices have all layers, in order; None if they do not."""
    rows = [one["sources"] for one in slices]
    names = [source["model"] for source in rows[0]]
    same = all([source["model"] for source in row] == names for row in rows)
    if not same or not all(_agree(slices, key) for key in ("parameters", "base_model")):
        return None
    models = []
    for place, name in enumerate(names):
        sources = [row[place] for row in rows]
        ends = [0, *(source["layer_range"][1] for source in sources)]
        in_order = [source["layer_range"][0] for source in sources] == ends[:-1]
        if not in_order or not _agree(sources, "parameters"):
            return None
        if not isinstance(name, str) or _n_layers(name, places) != ends[-1]:
            return None
        given = sources[0].get("parameters")
        models.append({"model": name, **({"parameters": given} if given else {})})
    return models


def _has_gradients(slices: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]) -> bool:
    """Tell if values vary by layer: with several slices they begin anew in each."""
    sources = [source for one in slices for source in one["sources"]]
    for owner in (*sources, *slices, recipe):
        for value in (owner.get("parameters") or {}).values():
            rules = value if _has_rules(value) else [{"value": value}]
            if any(isinstance(rule.get("value"), list) for rule in rules):
                return True
    return False


def _agree(owners: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Tell if all slices have the same value of a key."""
    return all(owner.get(key) == owners[0].get(key) for owner in owners)


def _n_layers(name: str, places: Places) -> int:
    """Return the number of layers of a model, by its config.json or else by its tensors' names.

    It is 0 for the result of a stage that is not there yet.
    """
    if places.is_stage(name) and not places.path(name):
        return 0
    file = Path(places.headers(name, weights=False), "config.json")
    config = json_object(read_text(file), str(file)) if file.is_file() else {}
    for part in (config, config.get("text_config")):
        for key in _LAYER_COUNTS:
            if is_object(part) and isinstance(part.get(key), int):
                return int(part[key])
    layers = Layers(Checkpoint.open(places.headers(name)).tensors)
    return layers.n_of_largest_stack()


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
