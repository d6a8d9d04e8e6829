"""Take the defaults of parameters, and refuse or tell those that have to be given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import InputError
from ..spec.choices import Semantics
from ..spec.parameters import Parameter
from .settings import Scalar, Setting

Scopes = Iterable[tuple[str, Iterable[Mapping[str, Setting]]]]
"""The models' names in messages, and the settings that hold for each."""


def default_of(
    key: str, parameter: Parameter, semantics: Semantics, method: str, tensor: str, *, rules: bool
) -> Scalar:
    """Return the default of a parameter for a tensor.

    Args:
        key: The name of the parameter.
        parameter: The parameter.
        semantics: The author whose variant of the method the merge follows.
        method: The name of the method.
        tensor: The name of the tensor.
        rules: True if the parameter is given by rules, of which none fits the tensor.

    Raises:
        InputError: The parameter has no default, or its author has none and rules are given.
    """
    default = parameter.default
    if default is None and not rules:
        raise InputError(f"{key!r} is missing, and {method} has no default for it")
    if default is None or (rules and semantics in parameter.required_by):
        where = "" if default is None else f" in {semantics}"
        raise InputError(
            f"no rule of {key!r} fits tensor {tensor!r}, and it has no default{where}; add a last "
            "rule without a filter"
        )
    return default


def told(parameters: Mapping[str, Parameter], semantics: Semantics, scopes: Scopes) -> list[str]:
    """Return warnings of parameters that nobody gave, and that the semantics' author requires.

    Args:
        parameters: The parameters of the method, by name.
        semantics: The author whose variant of the method the merge follows.
        scopes: The models' names in messages, and the settings that hold for each.
    """
    found = []
    for key, parameter in parameters.items():
        if semantics not in parameter.required_by:
            continue
        lacking = [label for label, held in scopes if not any(key in one for one in held)]
        if lacking := [*dict.fromkeys(lacking)]:
            shown = f"{', '.join(lacking[:3])}{', ...' if lacking[3:] else ''}"
            said = f"{key}: {parameter.default:g}"
            found.append(
                f"{shown}: no {key!r} is given, which {semantics} refuses; {parameter.default:g} "
                f"is taken ('{said}' under 'parameters' says so)"
            )
    return found
