"""Lay the edits of an adapter over the tensors of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...errors import InputError
from ...messages import did_you_mean, show, some
from ..checkpoint import Checkpoint
from ..tensors import TensorInfo
from ..tied import is_head, nearest_embedding, tied_pairs
from .adapter import Adapter, Edit
from .fitting import WAY_OUT, check_fits
from .names import Names
from .readings import settled


def place(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """Give the tensors of a model the changes that an adapter makes to them.

    An edit finds its tensor by name, with or without the prefixes of hosts, wrappers and folders.
    Names that are tied change together. The changes follow those of adapters placed before.

    Args:
        checkpoint: The model.
        adapter: The adapter.

    Returns:
        The model with ``TensorInfo.changes``, with tensors that the adapter replaces, and with the
        adapter behind its ``adapters``.

    Raises:
        InputError: An edit finds no tensor, or several; a shape, a rank or a dtype does not fit;
            two edits of different names change one tensor; the adapter changes nothing.
    """
    if not adapter.edits:
        raise InputError(
            f"{adapter.path}: the adapter changes no tensor, expected a pair of factors or more; "
            "save it again, or leave it out"
        )
    tensors = dict(checkpoint.tensors)
    names = Names(tensors)
    tied = _tied(checkpoint)
    taken: dict[str, Edit] = {}

    def shape_of(name: str) -> tuple[int, ...] | None:
        found = names.find(name)
        return tensors[found[0]].shape if len(found) == 1 else None

    for stated in adapter.edits:
        edit, name = _fitting(checkpoint, names, tensors, settled(stated, shape_of))
        _take(taken, name, edit, tied)
        for one in tied.get(name, (name,)):
            tensors[one] = changed(tensors[one], edit)
    return replace(checkpoint, tensors=tensors, adapters=(*checkpoint.adapters, adapter))


def changed(tensor: TensorInfo, edit: Edit) -> TensorInfo:
    """Return a tensor with one more change, or the tensor that replaces it under its name."""
    if isinstance(edit.change, TensorInfo):
        return replace(edit.change, name=tensor.name)
    return replace(tensor, changes=(*tensor.changes, edit.change))


def _fitting(
    checkpoint: Checkpoint, names: Names, tensors: Mapping[str, TensorInfo], stated: Edit
) -> tuple[Edit, str]:
    """Return the first reading of an edit that fits the model, and the tensor that it changes."""
    refusals = []
    for edit in (stated, *stated.others):
        try:
            name = _target(checkpoint, names, edit)
            check_fits(edit, edit.change, tensors[name])
        except InputError as refusal:
            refusals.append(refusal)
        else:
            return edit, name
    raise refusals[0]


def _target(checkpoint: Checkpoint, names: Names, edit: Edit) -> str:
    """Return the name of the tensor that an edit changes."""
    found = names.find(edit.name)
    if len(found) == 1:
        return found[0]
    if not found and is_head(edit.name) and checkpoint.config().get("tie_word_embeddings", True):
        # The files have the values of a tied head once, under the name of the embedding.
        embedding = nearest_embedding(edit.name, checkpoint.tensors)
        if embedding is not None:
            return embedding
    told = edit.told_by
    start = f"{told.path}: tensor {show(told.name)} changes {show(edit.name)}, "
    if found:
        raise InputError(
            f"{start}which may be any of {some(found)} in {checkpoint.path}; name its model's "
            f"directory or file by itself, or {WAY_OUT}"
        )
    hint = did_you_mean(edit.name, checkpoint.tensors)
    raise InputError(f"{start}which {checkpoint.path} lacks{hint}; {WAY_OUT}")


def _take(
    taken: dict[str, Edit], name: str, edit: Edit, tied: Mapping[str, tuple[str, ...]]
) -> None:
    """Refuse a second name for a tensor, unless the model has two names for it as well."""
    first = taken.setdefault(name, edit)
    if first.name == edit.name or name in tied or is_head(first.name) or is_head(edit.name):
        return
    raise InputError(
        f"{edit.told_by.path}: tensors {show(first.told_by.name)} and {show(edit.told_by.name)} "
        f"both change {show(name)}, expected tensors of their own; {WAY_OUT}"
    )


def _tied(checkpoint: Checkpoint) -> dict[str, tuple[str, ...]]:
    """Return, by each tied name, all names that share its values."""
    groups: dict[str, list[str]] = {}
    for alias, canonical in tied_pairs(checkpoint):
        groups.setdefault(canonical, [canonical]).append(alias)
    return {name: tuple(group) for group in groups.values() for name in group}
