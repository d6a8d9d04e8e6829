"""A merge whose result is one file, with nothing beside it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

from ..checkpoint.layout import one_file
from ..checkpoint.metadata import RECIPE
from ..recipe.vocabulary import restated
from .plan import MergePlan

_MAX_RECIPE = 1 << 13  # beside the header of a small adapter or model, still little


def in_one_file(made: MergePlan, name: str) -> MergePlan:
    """Return the plan of the same merge into one file.

    Args:
        made: The plan of the merge into a directory.
        name: The name of the file.

    Raises:
        InputError: One file cannot hold the result.
    """
    tensors = [entry for shard in made.shards for entry in shard.tensors]
    shard = one_file(
        name,
        tensors,
        made.template,
        {RECIPE: _recipe(made)},
        files_from=made.config.files_from,
    )
    warnings = list(made.warnings)
    if len(made.shards) > 1:
        size = made.config.max_shard_size
        warnings.append(f"max_shard_size {size}: does not hold for a result that is one file")
    return replace(made, shards=(shard,), is_file=True, warnings=tuple(warnings))


def _recipe(made: MergePlan) -> str:
    """Return a short recipe as JSON, in which no path tells of the machine."""
    recipe = made.config.to_json_dict()
    text = json.dumps(_short(recipe), ensure_ascii=False)
    if len(text) > _MAX_RECIPE:
        text = json.dumps({key: recipe[key] for key in ("merge_method", "seed") if key in recipe})
    return text


def _short(recipe: dict[str, Any]) -> dict[str, Any]:
    left_out = ("max_shard_size", "files_from", "card")
    short = {key: _name(value) for key, value in recipe.items() if key not in left_out}
    for key in ("models", "slices", "modules"):
        if key in recipe:
            short[key] = _with_names(recipe[key])
    if "tokenizer" in recipe:
        short["tokenizer"] = restated(recipe["tokenizer"], _name)
    if "stages" in recipe:
        short["stages"] = [_short(stage) for stage in recipe["stages"]]
    return short


def _with_names(value: Any) -> Any:
    """Return models, slices or modules with the names of their models."""
    if isinstance(value, list):
        return [_with_names(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _name(one) if key in ("model", "base_model") else _with_names(one)
        for key, one in value.items()
    }


def _name(value: Any) -> Any:
    """Return a value of a recipe; an absolute path without its directories."""
    is_place = isinstance(value, str) and value.startswith(("/", "~"))
    return os.path.basename(value.rstrip("/")) if is_place else value
