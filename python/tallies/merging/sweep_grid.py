"""Turns the grid of a sweep into the requests of its candidates, and groups them by their reads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..messages import counted, show
from ..methods._matrix import MatrixMethod
from ..recipe.config import MergeConfig
from ..recipe.overrides import Overrides, one_spelling
from .plan import MergePlan
from .planning import plan

MAX_CANDIDATES = 1000
"""Each candidate has open files, a directory and a row of buffers."""

_OF_OTHER_TENSORS = (
    *("base_model", "models", "slices", "modules", "tokenizer", "tokenizer_source"),
    *("chat_template", "embeddings", "tied", "missing", "extra", "rename", "architecture"),
    *("dtype", "out_dtype", "variant", "files_from", "adapter_rank", "adapter_space", "stages"),
    *("max_shard_size", "card", "copy_tokenizer", "nonfinite"),
)
"""Keys that all candidates of a sweep have in common."""


@dataclass(frozen=True)
class Candidate:
    """One merge of a sweep."""

    name: str
    """The directory of its result: ``0001``."""
    settings: dict[str, Any]
    """The values of the grid that it has."""
    plan: MergePlan


def settings_of(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the settings of each candidate; the last key varies fastest.

    Args:
        grid: The values of each key.

    Raises:
        InputError: The grid has no candidate, too many of them, or a value twice.

    >>> settings_of({"density": [0.1, 0.2], "lambda": [1]})
    [{'density': 0.1, 'lambda': 1}, {'density': 0.2, 'lambda': 1}]
    """
    example = "such as density=0.1,0.2"
    if not isinstance(grid, Mapping):
        found = f"a {type(grid).__name__}"
        raise InputError(f"grid: found {found}, expected lists of values by key, {example}")
    grid = {key: _listed(values) for key, values in grid.items()}
    if not grid:
        raise InputError(f"the grid has no key, expected at least one with its values, {example}")
    for key, values in grid.items():
        if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Sequence):
            found = "keys and values" if isinstance(values, Mapping) else show(values)
            raise InputError(f"--set {show(key)}: found {found}, expected a list of values")
        if not values:
            raise InputError(f"--set {show(key)}: found no value, expected at least one")
        for place, value in enumerate(values):
            if value in values[:place]:
                raise InputError(f"--set {show(key)}: {show(value)} is there twice; keep one")
        _refuse_key(key)
    n = math.prod(map(len, grid.values()))
    if n > MAX_CANDIDATES:
        each = " x ".join(str(len(values)) for values in grid.values())
        raise InputError(
            f"the grid has {n} candidates ({each}), expected at most {MAX_CANDIDATES}; sweep a "
            "part of it at a time"
        )
    rows = itertools.product(*([_plain(one) for one in values] for values in grid.values()))
    return [dict(zip(grid, row, strict=True)) for row in rows]


def _listed(values: Any) -> Any:
    """Return the numbers of an array of one dimension as a list, and other values as they are."""
    return values.tolist() if getattr(values, "ndim", 0) == 1 else values


def _plain(value: Any) -> Any:
    """Return a scalar of NumPy as a number of Python, and other values as they are."""
    return value.item() if getattr(value, "shape", None) == () else value


def _refuse_key(key: object) -> None:
    if not isinstance(key, str):
        raise InputError(f"grid: found the key {show(key)}, expected a text such as 'density'")
    head, dot, rest = key.partition(".")
    of_a_model = head == "models" and dot and "." in rest
    if head in _OF_OTHER_TENSORS and not of_a_model:
        raise InputError(
            f"--set {key}: all candidates of a sweep have the same models, tensors and dtypes; "
            "vary parameters, the method, the seed or factors, and run 'tallies merge' for each "
            f"{head} instead"
        )


def candidates(config: MergeConfig, settings: Sequence[Mapping[str, Any]]) -> list[Candidate]:
    """Return the candidates of a sweep with their plans.

    Args:
        config: The request that all of them change.
        settings: The values that each has by dotted key, as ``--set`` of a merge takes them.

    Raises:
        InputError: A candidate cannot be merged, or two are the same merge.
    """
    if config.stages:
        raise InputError(
            "stages: candidates of a sweep share the reads of models that are there, and stages "
            "make models for one merge; merge the stages first, and name their results in the "
            "recipe"
        )
    if config.adapter_rank is not None:
        raise InputError(
            "adapter_rank: candidates of a sweep share tiles of models, and adapters are merged in "
            "whole matrices; run 'tallies merge' for each candidate"
        )
    _refuse_synonyms(config, settings[0])
    found: list[Candidate] = []
    seen: dict[str, str] = {}
    for number, given in enumerate(settings, 1):
        try:
            one = MergeConfig.load(config, Overrides(settings=given))
            made = plan(one)
        except InputError as error:
            raise InputError(f"candidate {number} ({in_words(given)}): {error}") from None
        name = f"{number:04}"
        told = seen.setdefault(repr(one.to_json_dict()), name)
        if told != name:
            raise InputError(
                f"candidates {told} and {name} are the same merge: {in_words(given)}; remove one"
            )
        found.append(Candidate(name, dict(given), made))
    return found


def completed(
    load: Callable[[Mapping[str, Any]], MergeConfig], grid: Mapping[str, Sequence[Any]]
) -> MergeConfig:
    """Return the request that all candidates change, which may lack what the grid has.

    Args:
        load: Makes the request with the given settings.
        grid: The values of each key.

    Raises:
        InputError: The request is wrong, with the values of the first candidate too.
    """
    try:
        return load({})
    except InputError as error:
        try:
            return load(settings_of(grid)[0])
        except InputError:
            raise error from None


def _refuse_synonyms(config: MergeConfig, keys: Iterable[str]) -> None:
    """Refuse two keys of the grid that are one: ``lambda`` and ``parameters.scale``."""
    recipe = config.to_json_dict()
    seen: dict[str, str] = {}
    for key in keys:
        if (other := seen.setdefault(one_spelling(recipe, key), key)) != key:
            raise InputError(f"--set {other} and --set {key} are one parameter; keep one")


def in_words(settings: Mapping[str, Any]) -> str:
    """Return settings as one reads them: ``density=0.1, lambda=2``."""
    return ", ".join(f"{key}={_value(value)}" for key, value in settings.items())


def _value(value: Any) -> str:
    return value if isinstance(value, str) else show(value)


def families(made: Sequence[Candidate]) -> list[list[Candidate]]:
    """Return the candidates in groups, each of which is made of the same reads."""
    groups: dict[Hashable, list[Candidate]] = {}
    for one in made:
        groups.setdefault(_reads(one.plan, one.name), []).append(one)
    return list(groups.values())


def _reads(made: MergePlan, name: str) -> Hashable:
    """Return a value that is equal for merges whose passes read and write alike."""
    config = made.config
    if issubclass(config.method, MatrixMethod):
        return name  # a matrix in hand is of one merge
    outputs = tuple((tensor, dtype) for shard in made.shards for tensor, dtype, _ in shard.tensors)
    inputs = tuple(
        (tensor, tuple(made.match.source(one, tensor) for one in made.inputs(tensor)))
        for tensor in made.match.merged
    )
    return made.has_base, outputs, inputs, repr(config.drop_layers)


def told(groups: Sequence[Sequence[Candidate]]) -> list[str]:
    """Return a line about each group of candidates that needs another read."""
    if len(groups) == 1:
        return []
    lines = []
    for group in groups:
        methods = ", ".join(sorted({one.plan.config.merge_method for one in group}))
        names = ", ".join(one.name for one in group[:3]) + (", ..." if len(group) > 3 else "")
        lines.append(f"{counted(len(group), 'candidate')} ({names}; {methods}) share a read")
    return [f"one read does not suffice for all: {'; '.join(lines)}"]
