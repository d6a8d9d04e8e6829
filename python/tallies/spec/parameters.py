"""The parameters that methods and codecs state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .choices import Semantics

Values = Mapping[str, Any]
"""Checked values by parameter; those of a tensor have gradients and filters resolved."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method: its default, its range or choices, and one line about it.

    ``per_model`` parameters may be given for each model, and may vary over tensors (a gradient or
    ``filter`` rules); ``per_tensor`` parameters may vary over tensors only. A parameter whose
    default is None must be given. The values are the ``choices``; without choices, true and false
    where the default is a boolean, any text where the default is a text, and otherwise finite
    numbers and ``words``.
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
    range_by_semantics: Mapping[Semantics, tuple[float | None, float | None]] = field(
        default_factory=dict
    )
    """The ``low`` and ``high`` of the semantics in which they differ."""
    required_by: tuple[Semantics, ...] = ()
    """The semantics whose author refuses a recipe without it, though there is a default here."""
    if_varied: Mapping[str, float | str | bool] = field(default_factory=dict)
    """Defaults where another parameter, by its name, varies over the tensors."""

    @property
    def switched_on(self) -> object:
        """The choice that true stands for, of a switch."""
        return self.choices[0] if self.default == "none" and self.choices else self.default


def own_then_inherited(cls: type) -> dict[str, Any]:
    """Return the attributes of a class, its own first and then those of its bases."""
    found: dict[str, Any] = {}
    for one in cls.__mro__:
        for name, value in vars(one).items():
            found.setdefault(name, value)
    return found
