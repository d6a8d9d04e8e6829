"""Several recipes in one file: stages, of which a later one takes the result of an earlier one.

Each document of the file is a recipe. A name makes it a stage, whose result others list as a model
by that name; the document without a name is the result. As plain data the stages stand under the
key ``stages`` of the recipe of the result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, ConfigDict, field_validator

from ..errors import InputError
from ..messages import either, show
from .mentions import mentions, refuse_misspelt
from .places import Places

if TYPE_CHECKING:
    from .config import MergeConfig

_MOST = 100

_MOST_BYTES = 200
"""The longest part of a name, which is the name of a directory."""

_MOST_PARTS = 10

_TAKEN = ("lock", "new-lock")
"""Files beside the directories of results."""


class StageKeys(BaseModel):
    """The key about the stages before a merge."""

    model_config = ConfigDict(defer_build=True)

    stages: tuple[dict[str, Any], ...] = ()
    """Recipes with names, in the order in which they are merged."""

    @field_validator("stages", mode="before")
    @classmethod
    def _check_stages(cls, value: object) -> object:
        return [] if value is None else value

    def before(self) -> list[tuple[str, MergeConfig]]:
        """Return the stages before this merge by name, in the order in which they are merged."""
        config = cast("MergeConfig", self)
        return [(one["name"], config._of(unnamed(one), config.places)) for one in self.stages]

    def with_stages(
        self,
        stages: Sequence[tuple[str, MergeConfig]],
        directories: Mapping[str, str] | None = None,
    ) -> MergeConfig:
        """Return this request with other stages before it.

        Args:
            stages: The stages by name, in the order in which they are merged.
            directories: The places of the results of the stages, by name.
        """
        config = cast("MergeConfig", self)
        found = tuple({"name": name, **one.to_json_dict()} for name, one in stages)
        changed = config.model_copy(update={"stages": found}) if found else config
        return changed._at(config.places.with_stages(directories or {}))


def joined(documents: Sequence[Any]) -> Any:
    """Return several documents of a file as one recipe, whose ``stages`` are the others.

    >>> joined([{"name": "a", "models": ["b"]}, {"models": ["a"]}])
    {'models': ['a'], 'stages': [{'name': 'a', 'models': ['b']}]}

    Raises:
        InputError: A document is no recipe, or the result of the file is not certain.
    """
    for number, one in enumerate(documents, 1):
        if not isinstance(one, Mapping):
            raise InputError(f"document {number}: found {show(one)}, expected a recipe")
        if "stages" in one:
            raise InputError(f"document {number}: stages: stands in a file of one document only")
    last = [one for one in documents if one.get("name") is None]
    if len(last) > 1:
        raise InputError(
            f"holds {len(last)} documents without a name; one is the result, and each other needs "
            "a 'name' by which a later one lists it as a model"
        )
    if not last:
        last = _not_taken(documents)
    result = {key: value for key, value in last[0].items() if key != "name"}
    return {**result, "stages": [dict(one) for one in documents if one is not last[0]]}


def _not_taken(documents: Sequence[Mapping[Any, Any]]) -> list[Mapping[Any, Any]]:
    """Return the one document that no other takes, of documents that all have names."""
    names = [one["name"] for one in documents]
    taken = {name for one in documents for name in _texts(one, names)}
    ends = [one for one in documents if one["name"] not in taken]
    if not ends:
        recipes = {one["name"]: one for one in documents}
        for one in documents:
            _visit(one, recipes, [], (one["name"],))
    if len(ends) != 1:
        found = either([show(one["name"]) for one in ends[:5]], "and") + (", ..." * (len(ends) > 5))
        raise InputError(
            f"stages: no other stage takes {found}, expected one such stage, the result; leave out "
            "the name of the one that is the result"
        )
    return ends


def unnamed(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe of a stage without its name."""
    return {str(key): value for key, value in stage.items() if key != "name"}


def with_names(data: Mapping[str, Any], places: Places) -> Places:
    """Return places that know the names of a recipe's stages, whatever else is wrong with them."""
    given = data.get("stages")
    stages = given if isinstance(given, (list, tuple)) else ()
    names = [one.get("name") for one in stages if isinstance(one, Mapping)]
    return places.with_stages({name: "" for name in names if isinstance(name, str)})


def arranged(
    data: dict[str, Any], places: Places, load: Callable[..., MergeConfig]
) -> tuple[dict[str, Any], Places, list[str]]:
    """Check the stages of a recipe and put them in the order in which they are merged.

    Args:
        data: The recipe as plain data.
        places: The directories from which the texts of models lead to paths.
        load: Reads the recipe of a stage, from plain data and places.

    Returns:
        The recipe with the stages that it takes, places that know their names, and warnings.

    Raises:
        InputError: A stage is wrong, takes itself, or has the name of another.
    """
    given = data.get("stages")
    refuse_misspelt(data, with_names(data, places))
    if not given:
        return data, places, []
    if data.get("adapter_rank") is not None:
        raise InputError(
            "stages: the result of the stages is an adapter (adapter_rank), expected a model; "
            "merge the stages first, and the adapters in a run of their own"
        )
    recipes, places = dict(_named(given)), with_names(data, places)
    for name, one in recipes.items():
        if one.get("stages"):
            raise InputError(f"stage {show(name)}: stages: a stage has none of its own")
        try:
            if load(one, places).adapter_rank is not None:
                raise InputError(
                    "adapter_rank: the result of a stage is a model; merge the adapters in a run "
                    "of their own"
                )
        except InputError as error:
            raise InputError(f"stage {show(name)}: {error}") from None
    order: list[str] = []
    _visit(data, recipes, order, ())
    unused = [name for name in recipes if name not in order]
    warnings = [f"stage {show(name)}: nothing takes its result: left out" for name in unused]
    stages = [{"name": name, **recipes[name]} for name in order]
    return {**data, "stages": stages}, places, warnings


def _named(given: object) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(given, (list, tuple)) or not all(isinstance(one, Mapping) for one in given):
        raise InputError(f"stages: found {show(given)}, expected a list of recipes with names")
    if len(given) > _MOST:
        raise InputError(f"stages: found {len(given)}, expected at most {_MOST}")
    seen: set[str] = set()
    for number, one in enumerate(given):
        name = one.get("name")
        parts = PurePosixPath(name).parts if isinstance(name, str) else ()
        if not parts or ".." in parts or parts[0] == "/" or not str(name).isprintable():
            raise InputError(
                f"stages[{number}]: name: found {show(name)}, expected a word by which a later "
                "stage lists its result as a model"
            )
        if max(len(os.fsencode(part)) for part in parts) > _MOST_BYTES or parts[0] in _TAKEN:
            raise InputError(
                f"stages[{number}]: name: found {show(name)}, expected at most {_MOST_BYTES} "
                f"bytes, and neither of {', '.join(_TAKEN)}; shorten or change it, here and in the "
                "recipes that take its result"
            )
        if len(parts) > _MOST_PARTS:
            raise InputError(
                f"stages[{number}]: name: found {show(name)}, expected at most {_MOST_PARTS} parts "
                "between slashes; shorten it"
            )
        if name in seen:
            raise InputError(f"stages: two have the name {show(name)}; change one of them")
        seen.add(str(name))
        yield str(name), unnamed(one)


def _visit(
    data: Mapping[str, Any],
    recipes: Mapping[str, Mapping[str, Any]],
    order: list[str],
    above: tuple[str, ...],
) -> None:
    """Append the stages that a recipe takes to ``order``, each behind those that it takes."""
    for name in _texts(data, recipes):
        if name in above:
            raise InputError(
                f"stages: {_circle(above[above.index(name) :])}; each stage takes models, or "
                "stages that do not take it"
            )
        if name not in order:
            _visit(recipes[name], recipes, order, (*above, name))
            order.append(name)


def _circle(names: Sequence[str]) -> str:
    """Return in words that each stage takes the next, and the last the first."""
    if len(names) == 1:
        return f"{show(names[0])} takes its own result"
    pairs = zip(names, [*names[1:], names[0]], strict=True)
    told = [f"{show(one)} takes {show(other)}" for one, other in pairs]
    return f"{', '.join(told[:-1])}, and {told[-1]}"


def _texts(value: Any, names: Any) -> Iterator[str]:
    """Yield the names of stages that stand as models anywhere in a recipe, adapters or not."""
    for _, text in mentions(value):
        for name in names:
            if text == name or text.startswith((f"{name}+", f"{name}@")):
                yield name
                break
