"""Writes the recipe of a merge as a file that both this package and mergekit read."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from .._version import __version__
from ..recipe.config import MergeConfig
from ..spec.choices import MERGEKIT
from ..spec.dtypes import BY_NAME
from ..spec.parameters import Parameter

_FIRST = (
    *("merge_method", "base_model", "models", "slices", "modules"),
    *("parameters", "dtype", "out_dtype", "tokenizer", "chat_template"),
)
"""The keys that mergekit reads; others stand behind them, and mergekit passes over those."""


def recipe_text(config: MergeConfig) -> str:
    """Return a request as the text of a file, with everything that it states."""
    ours = [key for key in config.to_json_dict() if key not in (*_FIRST, "stages")]
    return f"{_head(config, ours)}\n{recipe_yaml(config)}"


def recipe_yaml(config: MergeConfig) -> str:
    """Return a request as YAML in mergekit's format.

    Parameters and dtypes have mergekit's names where it has others.
    """
    import yaml

    documents = [{"name": name, **_ordered(one)} for name, one in config.before()]
    return "---\n".join(
        yaml.safe_dump(one, sort_keys=False, allow_unicode=True, default_flow_style=None)
        for one in (*documents, _ordered(config))
    )


def _ordered(config: MergeConfig) -> dict[str, Any]:
    data = _with_names(config)
    return {key: data[key] for key in (*_FIRST, *data) if key in data and key != "stages"}


def _with_names(config: MergeConfig) -> dict[str, Any]:
    data = config.to_json_dict()
    known = config.method.parameters(config.semantics)
    shared = _renamed(data["parameters"], known)
    renamed = _without_empty_filters({**_with_aliases(data, known), "parameters": shared})
    for key in ("dtype", "out_dtype"):
        if key in renamed:
            renamed[key] = BY_NAME[renamed[key]].array_name
    assert isinstance(renamed, dict)
    return renamed


def _with_aliases(value: Any, known: Mapping[str, Parameter]) -> Any:
    """Return models, slices and modules with other names for their parameters, none where empty."""
    if isinstance(value, list):
        return [_with_aliases(one, known) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _renamed(one, known) if key == "parameters" else _with_aliases(one, known)
        for key, one in value.items()
        if one or key != "parameters"
    }


def _renamed(parameters: dict[str, Any], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return parameters under mergekit's names, and switches as it has them, true or false."""
    found = {}
    for name, value in parameters.items():
        own = known.get(name)
        found[own.aliases[0] if own and own.aliases else name] = (
            _switched(value, own.switched_on) if own and own.switch else value
        )
    return found


def _switched(value: Any, on: object) -> Any:
    if isinstance(value, list):
        return [_switched(one, on) for one in value]
    if isinstance(value, dict):
        return {**value, "value": _switched(value["value"], on)}
    return {"none": False, on: True}.get(value, value)


def _without_empty_filters(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_empty_filters(one)
            for key, one in value.items()
            if not (key == "filter" and one is None)
        }
    return [_without_empty_filters(one) for one in value] if isinstance(value, list) else value


def _head(config: MergeConfig, ours: list[str]) -> str:
    lines = [
        f"# Merged by tallies {__version__}, with the parameters in effect, defaults included.",
        "# Paths are relative to this file.",
    ]
    texts = [config.base_model or "", *(entry.model for entry in config.models)]
    if any(len(config.places.pieces(text)) > 2 for text in texts):
        return "\n".join([*lines, "# mergekit does not read it: there, a model has one adapter."])
    reader = "mergekit-multi" if config.stages else "mergekit"
    lines += textwrap.wrap(
        f"{reader} reads this file as well, and passes over {', '.join(ours)}.",
        initial_indent="# ",
        subsequent_indent="# ",
    )
    if config.semantics is not MERGEKIT:
        lines.append(
            f"# Its result would be another one: this is {config.merge_method} in "
            f"{config.semantics} semantics."
        )
    return "\n".join(lines)
