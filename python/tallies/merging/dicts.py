"""State dicts as models: their tensors, and checks of those that are copied."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

from ..checkpoint.match import Match, Model
from ..engine.arrays import Array, view
from ..errors import InputError
from ..messages import show
from ..spec.dtypes import refusal


def model_of(label: str, tensors: Mapping[str, Any]) -> Model:
    """Return a state dict as a model, with names tied that share memory in the same shape."""
    if not isinstance(tensors, Mapping):
        raise InputError(f"{label}: found {type(tensors).__name__}, expected a dict of tensors")
    try:
        arrays = {name: view(name, value) for name, value in tensors.items()}
    except InputError as error:
        raise InputError(f"{label}: {error}") from None
    first: dict[tuple[Any, ...], str] = {}
    tied = {}
    # In the order of the names, so that which one is canonical does not depend on the dict's.
    for name, array in sorted(arrays.items(), key=lambda item: item[0].encode()):
        key = (array.given, array.shape, array.dtype)
        if array.n_elements and first.setdefault(key, name) != name:
            tied[name] = first[key]
    return Model(label, arrays, tied)


def check_copied(models: Sequence[Model], matched: Match) -> None:
    """Raise InputError where integers or booleans of a model differ from the first one's."""
    first, *others = models
    for name in matched.copied:
        for model in others:
            own = matched.own(model, name)
            if own is None:
                continue
            if not _equal(first.tensors[name], own):
                raise InputError(
                    f"{model.label}: tensor {show(name)} is {own.dtype} and differs from "
                    f"{first.label}'s; {refusal(own.dtype, 'merged')}: pass integers='base' to "
                    "take the base's"
                )


def _equal(a: Array, b: Array) -> bool:
    """Return whether two arrays of one dtype have one shape and hold the same bits."""
    n_bytes = int(a.owner.nbytes)
    return a.shape == b.shape and (
        not n_bytes or ctypes.string_at(a.address, n_bytes) == ctypes.string_at(b.address, n_bytes)
    )
