"""The keys of a recipe: those that are not known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import InputError
from ..messages import unknown
from .vocabulary import one_key


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
    return [f"{where}key {unknown(key, known)}" for key in keys if key not in known]
