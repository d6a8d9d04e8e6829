"""The values of a recipe's keys: parsed from text, checked, and refused with words to act on."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictInt, ValidationInfo

from .. import methods
from ..checkpoint.paths import is_possible
from ..messages import show, unknown
from ..sizes import parse_size
from ..spec import dtypes
from ..spec.choices import AdapterSpace, Choice, Nonfinite, Semantics
from . import modifiers
from .parameters import check_parameters


def _method(value: object) -> object:
    name = methods.proper_name(value)
    known = [*methods.names(), *methods.of_adapters()]
    if name not in known:
        raise ValueError(unknown(name, known))
    return name


def _choice_of(kind: type[Choice]) -> BeforeValidator:
    def parse(value: object) -> Choice:
        if value not in tuple(kind):
            raise ValueError(unknown(value, tuple(kind)))
        return kind(value)

    return BeforeValidator(parse)


def _dtype(value: object) -> object:
    if not isinstance(value, str):
        return value
    dtype = dtypes.named(value)
    if dtype not in dtypes.FLOATS:
        raise ValueError(unknown(value, dtypes.RECIPE_NAMES))
    return dtype


def _path(value: object) -> object:
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        return path
    if not (path and is_possible(path)):
        raise ValueError(f"found {show(path)}, expected a path")
    return path


def _variant(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z0-9][\w-]*", value):
        raise ValueError(
            f"found {show(value)}, expected the word between the stem and the suffix of the files' "
            "names, such as fp16 of model.fp16.safetensors"
        )
    return value


def _size(value: object) -> object:
    if isinstance(value, (str, int)):
        parse_size(value)
    return value


def _rank(value: object) -> object:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if value == "full" or (type(value) is int and value >= 1):
        return value
    raise ValueError(f"found {show(value)}, expected a rank such as 16, or 'full'")


def modifier(key: str) -> BeforeValidator:
    """Return the check of one of ``modifiers.KEYS``; None counts as not given."""
    return BeforeValidator(lambda value: None if value is None else modifiers.check(key, value))


MethodName = Annotated[str, BeforeValidator(_method)]
"""The name of a merge method; another tool's name becomes the method's own."""

SemanticsWord = Annotated[Semantics, _choice_of(Semantics)]
NonfiniteWord = Annotated[Nonfinite, _choice_of(Nonfinite)]

DtypeName = Annotated[str, BeforeValidator(_dtype)]
"""The safetensors name of a floating-point type, however a user spells the type."""

PathText = Annotated[str, BeforeValidator(_path)]
"""Text that can be a path of the file system."""

AdapterRank = Annotated[int | str, BeforeValidator(_rank)]
"""The rank of an adapter, or ``full``."""

AdapterSpaceWord = Annotated[AdapterSpace, _choice_of(AdapterSpace)]

VariantName = Annotated[str, BeforeValidator(_variant)]
"""The word by which files of another dtype or state are told apart."""

SizeText = Annotated[str | StrictInt, BeforeValidator(_size)]
"""A size as it was written, because recipes are written back; ``parse_size`` takes the value."""

Seed = Annotated[StrictInt, Field(ge=0, lt=1 << 64)]

Parameters = Annotated[
    dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)
]
"""Parameters by name; an empty value in YAML counts as none."""


def checked_parameters(
    given: dict[str, Any], *, info: ValidationInfo, where: str, per_model: bool = False
) -> dict[str, Any]:
    """Return checked parameters, or the given ones where method or semantics are wrong already."""
    if not {"merge_method", "semantics"} <= info.data.keys():
        return given
    method, semantics = methods.get(info.data["merge_method"]), info.data["semantics"]
    return check_parameters(given, method, semantics, where=where, per_model=per_model)
