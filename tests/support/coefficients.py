"""Methods whose coefficients are solved from inner products."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tallies import methods
from tallies.methods._matrix import MatrixMethod
from tallies.spec.choices import PAPER

Array = npt.NDArray[Any]


def is_solved(name: str) -> bool:
    """Return whether a method's coefficients are solved from inner products."""
    parameters = {key: one.default for key, one in methods.get(name).parameters().items()}
    solvable = not issubclass(methods.get(name), MatrixMethod)
    survey = methods.get(name).rule(parameters, PAPER).survey if solvable else None
    return survey is not None and survey.name == "inner_products"


def needed(name: str) -> dict[str, Any]:
    """Return a value for each parameter that must be given."""
    return {key: 0.3 for key, one in methods.get(name).parameters().items() if one.default is None}


MERGES: dict[str, dict[str, Any]] = {
    name: needed(name) for name in methods.names() if is_solved(name)
}
"""Every method of this kind, with the parameters that it must be given."""


def f32(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)
