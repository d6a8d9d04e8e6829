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
    idle: float | str | bool | None = None
    """The value that asks for nothing; reports and recipes are silent about it.

    A default that asks for nothing is that of all versions: recipes do not say it.
    """
    only_with: Mapping[str, float | str | bool] = field(default_factory=dict)
    """Values of other parameters without which this one has no effect, and is not told."""

    @property
    def switched_on(self) -> object:
        """The choice that true stands for, of a switch."""
        return self.choices[0] if self.default == "none" and self.choices else self.default

    def is_told(self, value: object, others: Values) -> bool:
        """Return whether a value of this parameter has an effect, given those of the others.

        Args:
            value: The value, a tuple of one a model, or the extent over the tensors.
            others: Values of other parameters by name; of one that is not there, nothing is known.
        """
        each = value if isinstance(value, tuple) else (value,)
        if self.idle is not None and all(one == self.idle for one in each):
            return False
        return all(others.get(name, one) == one for name, one in self.only_with.items())


def told(values: Values, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return the values that have an effect, in order.

    >>> known = {"decay": Parameter(0.8, "share", only_with={"schedule": "ema"})}
    >>> known["schedule"] = Parameter("constant", "weights by order", idle="constant")
    >>> told({"schedule": "constant", "decay": 0.8}, known)
    {}
    >>> told({"schedule": "ema", "decay": 0.8}, known)
    {'schedule': 'ema', 'decay': 0.8}
    """
    return {
        name: value for name, value in values.items() if parameters[name].is_told(value, values)
    }


def own_then_inherited(cls: type) -> dict[str, Any]:
    """Return the attributes of a class, its own first and then those of its bases."""
    found: dict[str, Any] = {}
    for one in cls.__mro__:
        for name, value in vars(one).items():
            found.setdefault(name, value)
    return found
