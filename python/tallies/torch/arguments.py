"""Arguments of the functions on tensors: converted for the operators, or refused by name."""

from __future__ import annotations

import inspect
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from ..engine.codes import MAX_EXPERTS
from ..engine.odd_tensors import odd_kind
from ..errors import InputError
from ..kernels.arguments import number
from ..messages import show
from ..store.opened import Store
from . import ops

_REFUSED: Final = re.compile(r"tallies::\w+: (.*)", re.DOTALL)
_WRONG_TYPE: Final = re.compile(r"Expected a value of type '([^']*)' for argument '([^']*)'")
_TYPES: Final = {
    "Tensor": "a torch tensor",
    "List[Tensor]": "a list of tensors or a tensor [N, ...]",
    "int": "a whole number",
    "float": "a number",
    "List[float]": "a number or a list of numbers, one for each expert",
    "str": "a word",
}
"""The words for expected arguments, by torch's names of their types."""


def refuse_no_store(value: object) -> None:
    """Raise InputError for anything but an open store, such as its path."""
    if not isinstance(value, Store):
        raise InputError(
            f"store: found {show(value)}, expected a store; open it with tallies.Store.open(PATH)"
        )


def rows_of(name: str, value: Any) -> Sequence[Tensor]:
    """Return the items of a sequence, or of a tensor along its first axis."""
    if not isinstance(value, Tensor):
        return value  # type: ignore[no-any-return]
    if value.ndim == 0:
        raise InputError(
            f"{name}: found a 0-d tensor, expected a list of tensors or a tensor [N, ...]"
        )
    return value.unbind(0)


def threshold(value: object) -> float:
    """Return a threshold: NaN or a number of 0 or more, also from a tensor of one."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise InputError(
                f"threshold: found a tensor of shape {tuple(value.shape)}, expected one number"
            )
        value = value.item()
    if isinstance(value, numbers.Real) and math.isnan(value):
        return math.nan
    return number("threshold", value, 0, math.inf)


def numbers_of(value: Any) -> Any:
    """Return the numbers in a tensor; anything else as it is."""
    return value.tolist() if isinstance(value, Tensor) else value


def densities(value: Any, n_experts: int) -> Any:
    """Return one density per expert, from one for all or a sequence."""
    return [value] * n_experts if isinstance(value, (float, int)) else numbers_of(value)


def refused(error: Exception, function: Callable[..., Any], given: Mapping[str, Any]) -> Exception:
    """Return an operator's error about its arguments as InputError, and another as it is.

    A function calls its operator under ``try``, which costs nothing where no error is raised.

    Args:
        error: The error that the operator raised.
        function: The function that called the operator.
        given: The local variables of the function, of which its arguments are taken.
    """
    named = {name: given[name] for name in inspect.signature(function).parameters}
    return refusal(error, named) or error


def refusal(error: Exception, given: Mapping[str, Any]) -> InputError | None:
    """Return an operator's error about its arguments as InputError; None for another error.

    Args:
        error: The error that the operator raised.
        given: The arguments of the function that called the operator, by name.
    """
    refused = _REFUSED.fullmatch(str(error))
    if refused:
        return InputError(refused[1])
    mistyped = _WRONG_TYPE.search(str(error))
    if mistyped:
        return _wrong_type(mistyped[2], given.get(mistyped[2]), mistyped[1])
    for name, value in given.items():
        is_list = isinstance(value, (list, tuple))
        if is_list and not value:
            return InputError(f"{name}: found 0 tensors, expected 1 to {MAX_EXPERTS}")
        for i, one in enumerate(value if is_list else [value]):
            if isinstance(one, Tensor):
                elsewhere = _wrong_place(f"{name}[{i}]" if is_list else name, one)
                if elsewhere is not None:
                    return elsewhere
    return None


def _wrong_type(name: str, value: object, type_name: str) -> InputError:
    wanted = type_name.removeprefix("Optional[").rstrip("]")
    wanted = next((key for key in _TYPES if key.rstrip("]") == wanted), type_name)
    expected = _TYPES.get(wanted, type_name)
    found = show(value) if wanted in ("int", "float", "str") else type(value).__name__
    if isinstance(value, (list, tuple)) and wanted.startswith("List"):
        item = torch.Tensor if wanted == "List[Tensor]" else numbers.Real
        for i, one in enumerate(value):
            if not isinstance(one, item):
                expected = _TYPES[wanted[len("List[") : -1]]
                return InputError(f"{name}[{i}]: found {show(one)}, expected {expected}")
    return InputError(f"{name}: found {found}, expected {expected}")


def _wrong_place(name: str, value: Tensor) -> InputError | None:
    odd = odd_kind(value)
    if odd is not None and not value.is_meta:
        return InputError(f"{name}: found {odd[0]}, expected a dense tensor; {odd[1]}")
    problem = {"cpu": None, "cuda": ops.CUDA_PROBLEM}.get(
        value.device.type, "there are no kernels for other devices"
    )
    if problem is not None:
        return InputError(
            f"{name}: found a tensor on {value.device}, expected one on the CPU: {problem}; move "
            "it with .cpu()"
        )
    return None
