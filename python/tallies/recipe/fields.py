"""The values of a recipe's keys: parsed from text, checked, and refused with words to act on.

A check returns the value that is meant, or raises ValueError with what was found and expected.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

from .. import methods
from ..messages import show, unknown
from ..sizes import parse_size
from ..spec import dtypes
from ..spec.choices import Choice
from . import modifiers
from .parameters import check_parameters
from .record import Check, Problems, Record, problems_at

_YES: Final = (True, 1, "true", "yes", "on", "1", "t", "y")
_NO: Final = (False, 0, "false", "no", "off", "0", "f", "n")


def optional(check: Check) -> Check:
    """Return the check of a value that may be None."""
    return lambda value: None if value is None else check(value)


def each(check: Check) -> Check:
    """Return the check of a list, whose items pass another; the value is a tuple."""

    def checked(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"found {show(value)}, expected a list")
        return tuple(_items(dict(enumerate(value)), check, "[{}]").values())

    return checked


def by_key(check: Check) -> Check:
    """Return the check of a mapping, whose values pass another."""
    return lambda value: _items(mapping(value), check, ".{}")


def _items(values: Mapping[Any, Any], check: Check, place: str) -> dict[Any, Any]:
    found, wrong = {}, []
    for name, one in values.items():
        try:
            found[name] = check(one)
        except ValueError as error:
            wrong += problems_at(place.format(name), error)
    if wrong:
        raise Problems(wrong)
    return found


def entry(kind: type[Record], expected: str = "{model: DIR, parameters: ...}") -> Check:
    """Return the check of a record of a kind, which data may state."""

    def checked(value: Any) -> Record:
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"found {show(value)}, expected {expected}")
        return kind(**mapping(value))

    return checked


def mapping(value: object) -> dict[str, Any]:
    """Return a mapping with texts as keys, as a dict."""
    if not isinstance(value, Mapping):
        raise ValueError(f"found {show(value)}, expected a mapping")
    for name in value:
        if not isinstance(name, str):
            raise ValueError(f"found {show(name)}, expected text as a key")
    return dict(value)


def parameters(value: object) -> dict[str, Any]:
    """Return parameters by name; an empty value in YAML counts as none."""
    return {} if value is None else mapping(value)


def text(value: object) -> str:
    """Return text."""
    if not isinstance(value, str):
        raise ValueError(f"found {show(value)}, expected text")
    return value


def flag(value: Any) -> bool:
    """Return a truth value, also of a word for one."""
    word = value.lower() if isinstance(value, str) else value
    if isinstance(word, (bool, int, str)) and word in (*_YES, *_NO):
        return word in _YES
    raise ValueError(f"found {show(value)}, expected true or false")


def whole_number(least: int, below: int | None = None) -> Check:
    """Return the check of a whole number that is at least one number, and below a power of two."""

    def check(value: object) -> int:
        if type(value) is not int:
            raise ValueError(f"found {show(value)}, expected an integer")
        if value < least:
            raise ValueError(f"found {show(value)}, expected {least} or more")
        if below is not None and value >= below:
            power = below.bit_length() - 1
            raise ValueError(f"found {show(value)}, expected less than 2**{power}")
        return value

    return check


seed: Final = whole_number(0, 1 << 64)
"""The seed of random methods."""


def method_name(value: object) -> str:
    """Return the name of a merge method; another tool's name becomes the method's own."""
    name = methods.proper_name(value)
    known = [*methods.names(), *methods.of_adapters()]
    if name not in known:
        raise ValueError(unknown(name, known))
    return str(name)


def word(kind: type[Choice]) -> Check:
    """Return the check of a word of a list."""

    def parse(value: object) -> Choice:
        if value not in tuple(kind):
            raise ValueError(unknown(value, tuple(kind)))
        return kind(value)

    return parse


def dtype_name(value: object) -> str:
    """Return the safetensors name of a floating-point type, however a user spells the type."""
    dtype = dtypes.named(text(value))
    if dtype not in dtypes.FLOATS:
        raise ValueError(unknown(value, dtypes.RECIPE_NAMES))
    return dtype


def path_text(value: object) -> str:
    """Return text that can be a path of the file system."""
    path = text(os.fspath(value) if isinstance(value, os.PathLike) else value)
    try:
        possible = path and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ValueError(f"found {show(path)}, expected a path")
    return path


def variant_name(value: object) -> str:
    """Return the word by which files of another dtype or state are told apart."""
    found = text(value)
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", found):
        raise ValueError(
            f"found {show(value)}, expected the word between the stem and the suffix of the files' "
            "names, such as fp16 of model.fp16.safetensors"
        )
    return found


def size_text(value: object) -> str | int:
    """Return a size as it was written, because recipes are written back."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"found {show(value)}, expected a size such as 5GB")
    parse_size(value)
    return value


def adapter_rank(value: object) -> int | str:
    """Return the rank of an adapter, or ``full``."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if value == "full" or (type(value) is int and value >= 1):
        return value
    raise ValueError(f"found {show(value)}, expected a rank such as 16, or 'full'")


def modifier(name: str) -> Check:
    """Return the check of one of ``modifiers.KEYS``; None counts as not given."""
    return optional(lambda value: modifiers.check(name, value))


def checked_parameters(
    given: dict[str, Any], *, known: Mapping[str, Any], where: str, per_model: bool = False
) -> dict[str, Any]:
    """Return checked parameters, or the given ones where method or semantics are wrong already.

    Args:
        given: The parameters.
        known: The values of the recipe's keys that are right.
        where: The place of the parameters, for messages.
        per_model: True for those of one model.
    """
    if not {"merge_method", "semantics"} <= known.keys():
        return given
    method, semantics = methods.get(known["merge_method"]), known["semantics"]
    return check_parameters(given, method, semantics, where=where, per_model=per_model)
