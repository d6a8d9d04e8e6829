"""Turn validation errors into one line that a user can act on."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from ..errors import InputError
from ..messages import show

_EXPECTED = {
    "model_type": "{model: DIR, parameters: ...}",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "string_type": "text",
    "int_type": "an integer",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "less_than": "less than 2**64",
}
"""Words for pydantic's types of errors."""


def one_line(error: ValidationError) -> str:
    """Return all that is wrong with a recipe, on one line."""
    return "; ".join(
        _complaint(one["loc"], one["type"], one["msg"], one["input"], one.get("ctx", {}))
        for one in error.errors(include_url=False)
    )


def _complaint(
    location: tuple[int | str, ...], kind: str, message: str, found: object, context: dict[str, Any]
) -> str:
    cause = context.get("error")
    if isinstance(cause, InputError):  # names its key itself
        return str(cause)
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)[1:]
    if isinstance(cause, ValueError):
        return f"{where}: {cause}"
    if kind == "missing":
        return f"{where}: missing; add it to the recipe"
    expected = _EXPECTED.get(kind, message)
    if "ge" in context:
        expected = f"{context['ge']} or more"
    return f"{where}: found {show(found)}, expected {expected}"
