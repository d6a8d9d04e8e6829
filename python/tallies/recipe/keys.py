"""The keys of a recipe: those that are not known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import InputError
from ..messages import show, unknown
from .lenient import is_of_others
from .vocabulary import one_key

_OF_MIXTURES = frozenset({"experts", "gate_mode", "experts_per_token", "shared_experts"})
"""Keys of the requests of ``tallies moe``."""


def known_keys(
    data: Mapping[str, Any], known: Iterable[str], known_of_a_model: Iterable[str]
) -> dict[str, Any]:
    """Return a recipe without the keys that ask for nothing.

    Args:
        data: The recipe as plain data.
        known: The keys that a recipe may have.
        known_of_a_model: The keys that an entry of ``models`` may have.

    Raises:
        InputError: A key is unknown; the message names all that are.
    """
    data = one_key(data)
    if isinstance(data.get("name"), str):
        del data["name"]  # mergekit's name of the result, for the recipes behind it
    problems = _unknown(data, [*known], "")
    entries = data.get("models")
    for index, entry in enumerate(entries if isinstance(entries, (list, tuple)) else ()):
        problems += _unknown(entry, [*known_of_a_model], f"models[{index}]: ")
    if len(problems) > 3:
        problems[3:] = [f"and {len(problems) - 3} more keys like these"]
    if problems:
        raise InputError("; ".join(problems))
    return data


def _unknown(data: object, known: list[str], where: str) -> list[str]:
    keys = data if isinstance(data, Mapping) else ()
    return [f"{where}{_stray(key, known)}" for key in keys if key not in known]


def _stray(key: str, known: list[str]) -> str:
    """Say where a key belongs that is none of a recipe's, or which one it may be."""
    if key in _OF_MIXTURES:
        return f"key {show(key)}: is one of a mixture of experts; use 'tallies moe CONFIG OUT'"
    if is_of_others(key):
        return f"key {show(key)}: is a parameter; write it under 'parameters'"
    return f"key {unknown(key, known)}"
