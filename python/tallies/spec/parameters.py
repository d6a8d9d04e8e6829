"""Parameters that methods and codecs state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .choices import Semantics

Values = Mapping[str, Any]
"""What checked parameters are set to; of a tensor, resolved for it."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method: its default, its range or choices, and one line about it.

    ``per_model`` parameters may be given for each model, and may vary over tensors (a gradient or
    ``filter`` rules); ``per_tensor`` ones may vary over tensors only. A default of None means the
    parameter must be given. With ``choices`` the values are those, with a boolean default they are
    true or false, with a text as default any text, otherwise finite numbers or one of ``words``.
    """

    default: float | str | bool | None
    doc: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    words: tuple[str, ...] = ()
    switch: bool = False
    """False stands for the choice ``none``, true for the default or else the first choice."""
    whole: bool = False
    per_model: bool = False
    per_tensor: bool = False
    aliases: tuple[str, ...] = ()
    semantics: tuple[Semantics, ...] = tuple(Semantics)
    """The semantics in which the parameter exists."""
    by_semantics: Mapping[Semantics, float | str | bool | None] = field(default_factory=dict)
    """Defaults of the semantics in which they differ."""


def own_then_inherited(cls: type) -> dict[str, Any]:
    """The attributes of a class and of those it inherits from, its own first."""
    found: dict[str, Any] = {}
    for one in cls.__mro__:
        for name, value in vars(one).items():
            found.setdefault(name, value)
    return found
