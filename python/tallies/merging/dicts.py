"""State dicts as models: their tensors, and checks of those that are copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..checkpoint.match import Match, Model
from ..engine.arrays import is_torch, view
from ..errors import InputError
from ..messages import show


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
    import numpy as np

    first, *others = models
    for name in matched.copied:
        for model in others:
            own = matched.own(model, name)
            if own is None:
                continue
            a, b = (
                array.owner.numpy() if is_torch(array.owner) else array.owner
                for array in (first.tensors[name], own)
            )
            if not np.array_equal(a, b):
                raise InputError(
                    f"{model.label}: tensor {show(name)} is {own.dtype} and differs from "
                    f"{first.label}'s; integers are not merged: pass integers='base' to take the "
                    "base's"
                )
