"""Words the changes of a tensor as text, and reads them back over the tensors of a store.

Pieces of a change are named by numbers: piece 2 of the tensor NAME is the tensor NAME::2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final

from ...checkpoint.changes import (
    Added,
    Change,
    Hadamard,
    Kronecker,
    Magnitudes,
    Product,
    Rows,
    pieces,
)
from ...checkpoint.tensors import TensorInfo
from ._change_shapes import refuse_misfit

_CHANGES: Final = {
    one.__name__.lower(): one for one in (Product, Hadamard, Kronecker, Added, Magnitudes, Rows)
}

_PIECE: Final = "::"


def piece_name(name: str, number: int) -> str:
    """Return the name under which a task's file has a piece of a tensor."""
    return f"{name}{_PIECE}{number}"


def worded(
    changes: Sequence[Change], replacement: TensorInfo | None
) -> tuple[str, list[TensorInfo]]:
    """Return the text of a tensor's changes, and the pieces that it counts from zero.

    Args:
        changes: The changes, in their order.
        replacement: The tensor that stands in place of the base's before the changes, or None.
    """
    stored = [] if replacement is None else [replacement]
    stored += [piece for change in changes for piece in pieces(change)]
    numbers = {piece: i for i, piece in enumerate(dict.fromkeys(stored))}
    data: dict[str, Any] = {"changes": [_plain(change, numbers) for change in changes]}
    if replacement is not None:
        data = {"replaces": _plain(replacement, numbers), **data}
    return json.dumps(data), list(numbers)


def _plain(value: Any, numbers: Mapping[TensorInfo, int]) -> Any:
    if isinstance(value, TensorInfo):
        return f"{_PIECE}{numbers[value]}"
    if type(value) in _CHANGES.values():
        own = {one.name: _plain(getattr(value, one.name), numbers) for one in fields(value)}
        return {"change": type(value).__name__.lower(), **own}
    return value


def changed(text: bytes, base: TensorInfo, stored: Mapping[str, TensorInfo]) -> TensorInfo:
    """Return a tensor of the base, or the one in its place, with the changes that a text says.

    Args:
        text: The text of the changes.
        base: The tensor of the base.
        stored: Tensors of the task's file by name.

    Raises:
        ValueError: The text is none that ``worded`` returns, or names pieces that are not there, or
            that do not fit the tensor.
    """
    try:
        data = json.loads(text)
        told = data.get("replaces")
        values = base if told is None else _read(told, base.name, stored)
        changes = tuple(_read(one, base.name, stored) for one in data["changes"])
        if not all(isinstance(one, tuple(_CHANGES.values())) for one in changes):
            raise TypeError("found another value, expected a change")
        if not isinstance(values, TensorInfo) or values.shape != base.shape:
            raise TypeError("found a tensor of another shape in the place of the base's")
        for one in changes:
            refuse_misfit(one, base.n_elements)
        before = base.changes if told is None else ()
        return replace(values, changes=(*before, *changes))
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _read(value: Any, name: str, stored: Mapping[str, TensorInfo]) -> Any:
    if isinstance(value, str):
        return stored[f"{name}{value}"]
    if isinstance(value, Mapping):
        own = {key: _read(item, name, stored) for key, item in value.items() if key != "change"}
        return _CHANGES[value["change"]](**own)
    return tuple(value) if isinstance(value, list) else value
