"""Override a recipe with values of the command line, before the recipe is checked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import methods
from ..errors import InputError
from ..messages import did_you_mean, show, some, unknown
from ..spec.choices import PAPER, Semantics
from .plain_stacks import owners
from .spelling import spelled

Pairs = Mapping[str, Any]

_OF_STAGES_TOO = ("semantics", "seed", "nonfinite", "missing", "extra", "architecture", "variant")
"""The keys that hold for the stages before a merge as for the merge."""


@dataclass(frozen=True)
class Overrides:
    """Values that win over those of a recipe.

    >>> recipe = {"merge_method": "ties", "models": ["a"], "parameters": {"lambda": 1}}
    >>> Overrides(parameters={"scale": 0.5}).apply(recipe, ())["parameters"]
    {'scale': 0.5}
    """

    keys: Pairs = field(default_factory=dict)
    """Values of the recipe's keys; None counts as not given."""
    parameters: Pairs = field(default_factory=dict)
    """Parameters for all models: those that a model has of its own give way."""
    settings: Pairs = field(default_factory=dict)
    """Values by dotted key: ``parameters.density``, ``models.0.weight`` or ``stages.0.seed``."""
    models: Sequence[Mapping[str, Any]] = ()
    """Entries of models of the recipe, with parameters that win over theirs."""

    def apply(self, recipe: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
        """Return a recipe with these values.

        Args:
            recipe: The recipe as plain data.
            known: The keys that a recipe may have.

        Raises:
            InputError: A value names a model or a key that the recipe cannot have.
        """
        data = spelled(recipe)
        keys = {key: value for key, value in self.keys.items() if value is not None}
        data = _without_defaults(data, {**data, **keys})
        data |= keys
        for name, value in self.parameters.items():
            if same := (_synonyms(data, name) & self.parameters.keys()) - {name}:
                raise InputError(f"--param {name}: {min(same)!r} is another name for it; keep one")
            for entry in (*_entries(data), *(owner for _, owner in owners(data))):
                _forget(data, entry, name)
            _set_parameter(data, data, name, value)
        for key, value in self.settings.items():
            _set(data, key, value, [*known])
        for given in self.models:
            place = _model(data, given["model"], "--model")
            for name, value in given.get("parameters", {}).items():
                _set_in_entry(data, place, name, value)
        if isinstance(stages := data.get("stages"), (list, tuple)):
            of_all = Overrides({key: one for key, one in keys.items() if key in _OF_STAGES_TOO})
            data["stages"] = [
                of_all.apply(one, known) if isinstance(one, Mapping) else one for one in stages
            ]
        return data


def one_spelling(recipe: Mapping[str, Any], key: str) -> str:
    """Return a dotted key in the one way in which all spellings of it are equal.

    Args:
        recipe: The recipe that the key changes.
        key: The key of a setting, as ``Overrides.settings`` has it.

    Raises:
        InputError: The key names a model that the recipe has not.

    >>> recipe = {"merge_method": "ties", "models": [{"model": "ours/a"}]}
    >>> one_spelling(recipe, "models.a.weight") == one_spelling(recipe, "models.0.weight")
    True
    """
    before, _, name = key.rpartition(".")
    owner = before.removesuffix("parameters").removesuffix(".")
    if owner.startswith("models."):
        owner = f"models.{_model(recipe, owner.removeprefix('models.'), '--set models')}"
    return f"{owner}.{min(_synonyms(recipe, name))}"


def _without_defaults(data: dict[str, Any], changed: Pairs) -> dict[str, Any]:
    """Return a recipe without defaults, as reports write them out, that ``changed`` cannot have.

    A value that is not the default stays, and is refused where another method lacks the parameter.
    """
    given, known, possible = data.get("parameters"), _defaults(data), _defaults(changed)
    if not isinstance(given, Mapping) or known is None or possible is None:
        return data
    kept = {
        name: value
        for name, value in given.items()
        if name not in known or name in possible or value != known[name]
    }
    return {**data, "parameters": kept} if given else data


def _defaults(data: Pairs) -> dict[str, Any] | None:
    """Return the defaults of a recipe's method and semantics; None if either is wrong."""
    method = methods.proper_name(data.get("merge_method"))
    semantics = str(data.get("semantics", PAPER))
    if method not in methods.names() or semantics not in methods.get(str(method)).semantics:
        return None
    known = methods.get(str(method)).parameters(Semantics(semantics))
    return {name: parameter.default for name, parameter in known.items()}


def _set(data: dict[str, Any], key: str, value: Any, known: Sequence[str]) -> None:
    head, _, rest = key.partition(".")
    if head == "models" and rest:
        _set_in_model(data, rest, value)
    elif head == "stages" and rest:
        _set_in_stage(data, key, rest, value, known)
    elif head == "parameters" and rest:
        _set_shared(data, key, rest, value)
    elif head in known and rest:
        inner = data.get(head) or {}
        if not isinstance(inner, dict):
            raise InputError(f"--set {show(key)}: {head!r} is {show(inner)}, and has no keys")
        data[head] = {**inner, rest: value}
    elif head in known:
        data[head] = value
    elif head in _parameter_names(data):
        _set_shared(data, key, head, value)
    else:
        raise InputError(f"--set key {unknown(head, [*known, *_parameter_names(data)])}")


def _set_in_stage(
    data: dict[str, Any], key: str, rest: str, value: Any, known: Sequence[str]
) -> None:
    """Set ``STAGE.KEY``; STAGE is a number, or the name that the stage has."""
    given = data.get("stages")
    stages = [one for one in _listed(given) if isinstance(one, Mapping)]
    names = [str(one.get("name")) for one in stages]
    name = max((one for one in names if rest.startswith(f"{one}.")), key=len, default=None)
    text, _, inner = rest.partition(".") if name is None else (name, ".", rest[len(name) + 1 :])
    if not inner:
        raise InputError(
            f"--set {show(key)}: expected stages.STAGE.KEY=VALUE, such as stages.0.seed=3"
        )
    if name is None and not (text.isascii() and text.isdecimal() and int(text) < len(stages)):
        has = f"has {some(names)}" if names else "has none"
        raise InputError(f"--set {show(key)}: {show(text)} is no stage of the recipe, which {has}")
    place = int(text) if name is None else names.index(name)
    stage = spelled(stages[place])
    _set(stage, inner, value, ["name", *known])
    data["stages"] = [*stages[:place], stage, *stages[place + 1 :]]


def _set_shared(data: dict[str, Any], key: str, name: str, value: Any) -> None:
    """Set a parameter that all models share; InputError if every model has its own."""
    same = _synonyms(data, name)
    own = [entry.get("parameters") or {} for entry in _entries(data)]
    if own and all(isinstance(given, Mapping) and same & given.keys() for given in own):
        raise InputError(
            f"--set {key}: every model of the recipe has its own {name!r}; --param {name}=VALUE "
            f"sets it for all of them, --set models.MODEL.{name}=VALUE for one"
        )
    _set_parameter(data, data, name, value)


def _set_in_model(data: dict[str, Any], rest: str, value: Any) -> None:
    """Set ``MODEL.KEY`` or ``MODEL.parameters.KEY``; MODEL is a number, a name or a path."""
    model, dot, name = rest.rpartition(".")
    model = model.removesuffix(".parameters")
    if not dot or not model:
        raise InputError(
            f"--set {show('models.' + rest)}: expected models.MODEL.KEY=VALUE, such as "
            "models.0.weight=0.5"
        )
    place = _model(data, model, "--set models")
    _set_in_entry(data, place, name, value)


def _set_in_entry(data: dict[str, Any], place: int, name: str, value: Any) -> None:
    """Set a parameter of a model: in its entry, or in all of its sources where it has slices."""
    entry = _entries(data)[place]
    sources = [owner for text, owner in owners(data) if text == str(entry.get("model"))]
    for owner in sources or [entry]:
        _set_parameter(data, owner, name, value)


def _set_parameter(data: Pairs, owner: dict[str, Any], name: str, value: Any) -> None:
    """Set a parameter of the recipe or of a model, in the place of one of another name for it."""
    _forget(data, owner, name)
    given = owner.get("parameters") or {}
    if not isinstance(given, Mapping):
        raise InputError(
            f"{name}: the recipe has parameters {show(given)}, expected an object to set it in"
        )
    owner["parameters"] = {**given, name: value}


def _forget(data: Pairs, owner: dict[str, Any], name: str) -> None:
    given = owner.get("parameters")
    if isinstance(given, Mapping):
        same = _synonyms(data, name)
        owner["parameters"] = {key: one for key, one in given.items() if key not in same}


def _model(data: Pairs, text: str, where: str) -> int:
    """Return the place of a model by its number, its text, or the last part of its path."""
    names = [str(entry.get("model")) for entry in _entries(data)]
    for same in (names, [os.path.basename(name.rstrip("/")) for name in names]):
        if same.count(text) == 1:
            return same.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    if names.count(text) > 1:
        raise InputError(f"{where}: the recipe has {show(text)} twice; give its number, from 0 on")
    hint = did_you_mean(text, names)
    raise InputError(f"{where}: {show(text)} is not in the recipe, which has {some(names)}{hint}")


def _entries(data: Pairs) -> list[dict[str, Any]]:
    return [entry for entry in _listed(data.get("models")) if isinstance(entry, dict)]


def _listed(given: object) -> Sequence[Any]:
    """Return a list as it is, and any other value, which is refused later, as an empty one."""
    return given if isinstance(given, (list, tuple)) else ()


def _parameter_names(data: Pairs) -> list[str]:
    return [name for names in _names(data) for name in names]


def _synonyms(data: Pairs, name: str) -> set[str]:
    return next((names for names in _names(data) if name in names), {name})


def _names(data: Pairs) -> list[set[str]]:
    """Return the names of each parameter of the recipe's method, in any semantics."""
    name = methods.proper_name(data.get("merge_method"))
    if name not in methods.names():
        return []
    method = methods.get(str(name))
    found = {
        key: {key, *parameter.aliases}
        for semantics in method.semantics
        for key, parameter in method.parameters(semantics).items()
    }
    return [*found.values()]
