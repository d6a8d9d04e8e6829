"""The floating-point environment of the kernels, for the arithmetic in Python around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from .._core import FloatEnvironment

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def in_float_environment(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run a function with rounding to nearest and with subnormals, whatever its caller has set.

    Args:
        function: A front door of the package, whose thresholds and factors reach an output.

    Returns:
        The function, after which the caller has its own environment back.
    """

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with FloatEnvironment():
            return function(*args, **kwargs)

    return run
