"""Find what varies over the tensors: parameters, and defaults that change because others do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..methods._method import Method
from ..spec.choices import Semantics
from .settings import Scalar, Setting


def changed_defaults(
    method: type[Method],
    semantics: Semantics,
    shared: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Any]],
    taking: Callable[[str], Sequence[int]] | None = None,
) -> tuple[dict[str, Scalar], list[str]]:
    """Return the values of parameters that nobody gave, and warnings that name them.

    Args:
        method: The merge method.
        semantics: The author whose variant of the method the merge follows.
        shared: The parameters that are given for all models.
        tensors: The resolved parameters of each tensor.
        taking: Returns the models that take part in a tensor; None where all do.
    """
    changed: dict[str, Scalar] = {}
    warnings = []
    for name, parameter in method.parameters(semantics).items():
        for other, value in parameter.if_varied.items():
            if name not in shared and _varies(other, tensors, taking):
                changed[name] = value
                warnings.append(
                    f"{other} varies over the tensors, so {name} is {value}, not "
                    f"{parameter.default}; '{name}: {value}' says so, and --semantics mergekit "
                    "follows mergekit in all"
                )
    return changed, warnings


def _varies(
    name: str,
    tensors: Mapping[str, Mapping[str, Any]],
    taking: Callable[[str], Sequence[int]] | None,
) -> bool:
    """Tell if a parameter has several values over the tensors, of one model or of all."""
    if taking is None:
        return len({values[name] for values in tensors.values()}) > 1
    found: dict[int, set[Any]] = {}
    for tensor, values in tensors.items():
        value = values[name]
        models = taking(tensor) if isinstance(value, tuple) else [-1]
        for model, one in zip(models, value if isinstance(value, tuple) else [value], strict=True):
            found.setdefault(model, set()).add(one)
    return any(len(each) > 1 for each in found.values())


def whole_values(
    given: Mapping[str, Setting], method: type[Method], semantics: Semantics
) -> dict[str, Any]:
    """Return the parameters that hold for a whole merge, by name.

    Args:
        given: Checked parameters of all models.
        method: The method that has the parameters.
        semantics: The author whose variant of the method the merge follows.

    Returns:
        The given values, and defaults: also of a parameter that varies over the tensors, as any but
        ours may in mergekit's semantics.
    """
    found = {}
    for name, parameter in method.parameters(semantics).items():
        if not (parameter.per_model or parameter.per_tensor):
            value = given.get(name)
            is_one = value is not None and not isinstance(value, list)
            found[name] = value if is_one else parameter.default
    return found
