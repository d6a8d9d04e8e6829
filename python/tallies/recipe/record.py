"""Checks plain data against classes of keys, and tells everything that is wrong at once.

Commands start with it, so a class is made of its keys alone, without a look at their annotations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, ClassVar, Final, TypeVar

from ..errors import InputError

Check = Callable[[Any], Any]
"""Returns the value of a key that a user means, or raises ValueError with what is wrong."""

Later = Callable[[Any, Mapping[str, Any]], Any]
"""Goes on with a checked value, and with the values of the keys before it that are right."""

R = TypeVar("R", bound="Record")

REQUIRED: Final = object()
"""The default of a key that has none."""


class Problems(InputError):
    """Everything that is wrong with a record; each problem has its place there.

    Args:
        found: Places, such as ``.models[0]``, and what is wrong there; a place of None where the
            text names the place itself.
    """

    def __init__(self, found: Iterable[tuple[str | None, str]]) -> None:
        self.found = list(found)
        super().__init__(
            "; ".join(
                text if place is None else f"{place.removeprefix('.')}: {text}"
                for place, text in self.found
            )
        )


def problems_at(place: str, error: ValueError) -> list[tuple[str | None, str]]:
    """Return the problems of a value at a place of a record."""
    if isinstance(error, Problems):
        return [(one and place + one, text) for one, text in error.found]
    return [(None if isinstance(error, InputError) else place, str(error))]


class Key:
    """A key of a record: its check, its default, and what goes on with the checked value."""

    __slots__ = ("check", "default", "later")

    def __init__(self, check: Check, default: object, later: Later | None) -> None:
        self.check, self.default, self.later = check, default, later


def checked_by(check: Check, default: object = REQUIRED, later: Later | None = None) -> Any:
    """Return a key for the body of a class of records."""
    return Key(check, default, later)


class Record:
    """Values by key, each of which has passed its check.

    A class states its keys, those of its bases first, as in ``seed: int = checked_by(flag, True)``.
    Values never change; attributes with an underscore are no keys.

    Args:
        **data: The values of keys that are given.

    Raises:
        Problems: The data has other keys, lacks some, or a check failed.
    """

    model_fields: ClassVar[dict[str, Key]] = {}
    """The keys by name."""
    _given: frozenset[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.model_fields = {
            name: one
            for kind in reversed(cls.__mro__)
            for name, one in vars(kind).items()
            if isinstance(one, Key)
        }

    def __init__(self, **data: Any) -> None:
        given = self._prepared(data)
        known, wrong = self._known(given)
        strays = [name for name in given if name not in self.model_fields]
        wrong += [(f".{name}", "is no key; remove it") for name in strays]
        if wrong:
            raise Problems(wrong)
        vars(self).update(known, _given=frozenset(given))
        self._check()

    @classmethod
    def _prepared(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Return the data as the checks of the keys take it."""
        return data

    @classmethod
    def _known(cls, data: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str | None, str]]]:
        """Return the values that are right, with defaults, and the problems of the others."""
        known: dict[str, Any] = {}
        wrong: list[tuple[str | None, str]] = []
        for name, one in cls.model_fields.items():
            if name not in data:
                if one.default is REQUIRED:
                    wrong.append((f".{name}", "missing; add it to the recipe"))
                else:
                    known[name] = copy.copy(one.default)
                continue
            try:
                value = one.check(data[name])
                known[name] = value if one.later is None else one.later(value, known)
            except ValueError as error:
                wrong += problems_at(f".{name}", error)
        return known, wrong

    def _check(self) -> None:
        """Refuse values that do not go together."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.model_fields:
            raise AttributeError(f"{name}: a {type(self).__name__} never changes; make another one")
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(tuple(self._values().values()))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self._values().items())
        return f"{type(self).__name__}({values})"

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.model_fields}

    @property
    def model_fields_set(self) -> set[str]:
        """The keys that were given."""
        return set(self._given)

    def model_copy(self: R, *, update: Mapping[str, Any] | None = None) -> R:
        """Return this record with other values, which are not checked."""
        made = copy.copy(self)
        vars(made).update(update or {}, _given=self._given.union(update or ()))
        return made

    def model_dump(
        self,
        *,
        mode: str = "python",
        exclude: Iterable[str] = (),
        exclude_unset: bool = False,
        exclude_none: bool = False,
    ) -> dict[str, Any]:
        """Return plain data, with records as dicts.

        Args:
            mode: ``json`` for lists in the place of tuples, and texts in the place of words.
            exclude: Keys that are left out.
            exclude_unset: Leave out keys that were not given.
            exclude_none: Leave out keys whose value is None.
        """
        without = set(exclude)
        if exclude_unset:
            without |= self.model_fields.keys() - self._given
        options = {"mode": mode, "exclude_unset": exclude_unset, "exclude_none": exclude_none}
        return {
            name: _plain(value, options)
            for name, value in self._values().items()
            if name not in without and not (exclude_none and value is None)
        }


def _plain(value: Any, options: dict[str, Any]) -> Any:
    if isinstance(value, Record):
        return value.model_dump(**options)
    if isinstance(value, Mapping):
        return {name: _plain(one, options) for name, one in value.items()}
    is_json = options["mode"] == "json"
    if isinstance(value, (list, tuple)):
        found = [_plain(one, options) for one in value]
        return found if is_json else type(value)(found)
    return value.value if is_json and isinstance(value, Enum) else value
