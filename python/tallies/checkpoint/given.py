"""Embeddings and heads that a request gives in a file of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..errors import InputError
from ..messages import show, unknown
from ..spec.dtypes import FLOATS
from .checkpoint import Checkpoint
from .differences import is_of_tokens
from .tensors import TensorInfo
from .tied import tied_pairs


def given_tensors(path: str, template: Checkpoint) -> dict[str, TensorInfo]:
    """Return the tensors of a file that take the place of the template's, by their names there.

    A tensor that the template ties to one of the file is the file's as well.

    Args:
        path: A weight file or a directory of such files. Its tensors have the template's names and
            rows of their lengths; the number of rows is free.
        template: The base, or the first model.

    Raises:
        InputError: The file is none, or has a tensor that does not fit.
        StorageError: The file cannot be read.
    """
    found = dict(Checkpoint.open(path).tensors)
    for name, tensor in found.items():
        _refuse_other(name, tensor, template)
    for alias, canonical in tied_pairs(template):
        for name, other in ((alias, canonical), (canonical, alias)):
            if name in found and other not in found:
                found[other] = found[name]
    return found


def with_tensors(model: Checkpoint, tensors: Mapping[str, TensorInfo]) -> Checkpoint:
    """Return a model with these tensors in place of its own."""
    return replace(model, tensors={**model.tensors, **tensors})


def _refuse_other(name: str, tensor: TensorInfo, template: Checkpoint) -> None:
    own = template.tensors.get(name)
    if own is None:
        raise InputError(
            f"{tensor.path}: tensor {unknown(name, _short(template))}; embeddings that are given "
            f"have the names of {template.path}"
        )
    if tensor.dtype not in FLOATS or own.dtype not in FLOATS:
        raise InputError(
            f"{tensor.path}: tensor {show(name)} is {tensor.dtype}, and {own.dtype} in "
            f"{template.path}; embeddings that are given are of floating point"
        )
    if not tensor.shape or tensor.shape[1:] != own.shape[1:]:
        raise InputError(
            f"{tensor.path}: tensor {show(name)} has shape {list(tensor.shape)}, expected rows of "
            f"the length of {list(own.shape)} in {template.path}"
        )


def _short(template: Checkpoint) -> list[str]:
    """Return the names that can be given: those of embeddings and heads, if there are any."""
    return [name for name in template.tensors if is_of_tokens(name)] or list(template.tensors)[:3]
