"""Calls the operators ``torch.ops.tallies``: a refused argument becomes an InputError."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeAlias, TypeVar

from torch import Tensor

from . import arguments

Deltas: TypeAlias = Sequence[Tensor] | Tensor
"""Tensors of one shape, or one tensor [N, ...]."""
Weights: TypeAlias = Sequence[float] | Tensor | None
"""A finite number for each expert; None for ones."""

P = ParamSpec("P")
R = TypeVar("R")


def refusing(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function, which raises InputError for what its operator refuses."""

    @functools.wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        try:
            return function(*args, **keywords)
        except Exception as error:
            try:
                given = inspect.signature(function).bind(*args, **keywords).arguments
            except TypeError:
                raise error from None
            refused = arguments.refusal(error, given)
            if refused is None:
                raise
            raise refused from None

    return call
