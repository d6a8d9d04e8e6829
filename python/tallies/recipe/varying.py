"""Find the defaults of parameters that change because another varies over the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..methods._method import Method
from ..spec.choices import Semantics
from .settings import Scalar


def changed_defaults(
    method: type[Method],
    semantics: Semantics,
    shared: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, Scalar], list[str]]:
    """Return the values of parameters that nobody gave, and warnings that name them.

    Args:
        method: The merge method.
        semantics: The author whose variant of the method the merge follows.
        shared: The parameters that are given for all models.
        tensors: The resolved parameters of each tensor.
    """
    changed: dict[str, Scalar] = {}
    warnings = []
    for name, parameter in method.parameters(semantics).items():
        for other, value in parameter.if_varied.items():
            if name not in shared and len({values[other] for values in tensors.values()}) > 1:
                changed[name] = value
                warnings.append(
                    f"{other} varies over the tensors, so {name} is {value}, not "
                    f"{parameter.default}; '{name}: {value}' says so, and --semantics mergekit "
                    "follows mergekit in all"
                )
    return changed, warnings
