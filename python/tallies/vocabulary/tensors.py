"""The tensors of a model that have a row for each token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.config_sizes import stated_vocabulary
from ..checkpoint.parts import folder_of
from ..checkpoint.tied import is_by_token
from ..errors import InputError
from ..messages import show

_LOOKS_LIKE: Final = re.compile(r"embed|vocab|lm_head|wte")
_IS_OTHER: Final = re.compile(r"norm|pos|wpe|type|patch|proj", re.IGNORECASE)


def vocabulary_names(checkpoint: Checkpoint) -> list[str]:
    """Return the names of the tensors with a row for each token, outside of sub-directories."""
    return [
        name
        for name, tensor in checkpoint.tensors.items()
        if is_by_token(name) and tensor.shape and not folder_of(name, checkpoint.parts)
    ]


def n_token_rows(checkpoint: Checkpoint, why: str) -> int:
    """Return the rows that tokens have in all of a model's tensors of that kind.

    Args:
        checkpoint: The model.
        why: The part of the request that needs them.

    Raises:
        InputError: The model has no embedding, or one that is not known among its tensors.
    """
    names = vocabulary_names(checkpoint)
    if not names:
        raise InputError(
            f"{why}: found no embedding among the tensors of {checkpoint.label}, whose rows it "
            "could move; leave it out"
        )
    rows = [checkpoint.tensors[name].shape[0] for name in names]
    for name in _unknown(checkpoint, names, max(rows)):
        raise InputError(
            f"{why}: tensor {show(name)} of {checkpoint.label} may have a row for each token "
            f"({max(rows)}), and is none of the tensors that are known to; leave it out"
        )
    stated = None if checkpoint.adapters else stated_vocabulary(checkpoint.config())
    return min(rows) if stated is None else min(*rows, stated)


def _unknown(checkpoint: Checkpoint, known: list[str], n_rows: int) -> Iterator[str]:
    for name, tensor in checkpoint.tensors.items():
        has_rows = len(tensor.shape) == 2 and tensor.shape[0] == n_rows and name not in known
        if has_rows and _LOOKS_LIKE.search(name) and not _IS_OTHER.search(name):
            yield name
