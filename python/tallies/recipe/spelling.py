"""Put the spellings of a recipe's models into one: ``{model: TEXT, ...}``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

MODEL_KEYS = ("base_model", "files_from")
"""The keys of a recipe that name a model alone."""

_PARTS = {"path", "model", "revision", "lora", "override_architecture"}
"""The keys of mergekit's mapping for a model and an adapter on it."""


_SPACES = {"knots": "knots", "core_space": "core"}
"""Methods that are ``ties`` in a space of adapters, and that space."""


def spelled(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe whose models are entries ``{model: TEXT, ...}``, and nothing else changed.

    A model may be plain text, or ``{model: {path, revision, lora}}``, as mergekit writes it:
    ``path@revision+lora`` says the same. ``lora`` may be a list. A value of another kind stays for
    the checks to refuse.

    >>> spelled({"models": ["a", {"model": {"path": "org/b", "revision": "v2"}}]})
    {'models': [{'model': 'a'}, {'model': 'org/b@v2'}]}
    """
    changed = dict(data)
    if (space := _SPACES.get(str(data.get("merge_method")))) is not None:
        changed = {"adapter_space": space, **changed, "merge_method": "ties"}
    for key in MODEL_KEYS:
        if key in data:
            changed[key] = model_text(data[key])
    if isinstance(data.get("models"), (list, tuple)):
        changed["models"] = [_entry(value) for value in data["models"]]
    return changed


def model_text(value: object) -> object:
    """Return the text of a model that mergekit writes as a mapping; other values as they are."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if (
        not isinstance(value, Mapping)
        or set(value) - _PARTS
        or ("path" in value) == ("model" in value)
    ):
        return value
    model = value["path"] if "path" in value else model_text(value["model"])
    given, revision = value.get("lora"), value.get("revision")
    loras = [model_text(one) for one in (given if isinstance(given, (list, tuple)) else [given])]
    loras = [lora for lora in loras if lora is not None]
    if not isinstance(model, str) or not all(isinstance(lora, str) for lora in loras):
        return value
    return "".join([model, f"@{revision}" if revision else "", *(f"+{lora}" for lora in loras)])


def _entry(value: object) -> object:
    if isinstance(value, (str, os.PathLike)):
        return {"model": model_text(value)}
    if isinstance(value, Mapping):
        return {key: model_text(one) if key == "model" else one for key, one in value.items()}
    return value
