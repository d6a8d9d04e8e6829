"""The fields of an adapter_config.json by type: a value of another is refused by its key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NoReturn, TypeGuard

from ...errors import InputError
from ...messages import show
from ..json_text import is_object

_MOST: Final = 1e30
"""The largest alpha; no rank makes of it a scale beyond float32."""


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """Return the expression that matches the end of a module's name, from a dot on."""
    return re.compile(rf"(.*\.)?({pattern})$")


@dataclass(frozen=True)
class Fields:
    """The fields of a configuration by type; null counts as absent."""

    config: Mapping[str, object]
    path: Path

    def flag(self, key: str) -> bool:
        """Return true or false; false where the field is absent."""
        value = self.config.get(key) or False
        if not isinstance(value, bool):
            refuse_value(self.path, key, value, "true or false")
        return value

    def number(self, key: str, default: float) -> float:
        """Return a number whose scale is finite in float32."""
        value = self.config.get(key)
        if value is None:
            return default
        if not _is_number(value):
            refuse_value(self.path, key, value, f"a number of at most {_MOST}")
        return float(value)

    def patterns(self, key: str, *, whole: bool = False) -> Iterator[tuple[str, float]]:
        """Yield the numbers of a setting by pattern of modules' names."""
        value = self.config.get(key) or {}
        if not is_object(value):
            refuse_value(self.path, key, value, "an object of numbers")
        for pattern, number in value.items():
            if not _is_number(number) or (whole and (number != int(number) or number <= 0)):
                wanted = "a positive integer" if whole else f"a number of at most {_MOST}"
                refuse_value(self.path, f"{key}[{show(pattern)}]", number, wanted)
            try:
                compiled(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                refuse_value(self.path, key, pattern, f"a regular expression ({error})")
            yield pattern, float(number)

    def targets(self) -> tuple[str, ...] | re.Pattern[str]:
        """Return the targets as ends of names, or the pattern that a single text is."""
        value = self.config.get("target_modules")
        if not isinstance(value, str):
            return tuple(self.texts("target_modules"))
        try:
            return re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            refuse_value(self.path, "target_modules", value, f"a regular expression ({error})")

    def texts(self, key: str) -> list[str]:
        """Return a list of names; an empty one where the field is absent."""
        value = self.config.get(key) or []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            refuse_value(self.path, key, value, "a list of names")
        return value


def token_lists(
    config: Mapping[str, object], key: str, path: Path
) -> Mapping[str, tuple[int, ...]] | tuple[int, ...]:
    """Return the numbers of trained tokens: of any module, or by ends of the names of modules.

    Args:
        config: The configuration.
        key: The setting that has them.
        path: The configuration's file.

    Raises:
        InputError: They are no lists of numbers.
    """
    value = config.get(key) or []
    lists: dict[str, object] = value if is_object(value) else {"": value}
    found: dict[str, tuple[int, ...]] = {}
    for name, rows in lists.items():
        if not isinstance(rows, list) or not all(type(row) is int and row >= 0 for row in rows):
            refuse_value(path, key, value, "lists of the numbers of tokens")
        found[name] = tuple(rows)
    return found if is_object(value) else found[""]


def _is_number(value: object) -> TypeGuard[float]:
    # A scale must be finite in float32; a comparison with NaN is false.
    return isinstance(value, int | float) and type(value) is not bool and abs(value) <= _MOST


def refuse_value(path: Path, key: str, found: object, expected: str) -> NoReturn:
    """Raise ``InputError`` for a field that has another value than PEFT writes."""
    raise InputError(
        f"{path}: {key} is {show(found)}, expected {expected}; download the adapter again"
    )
