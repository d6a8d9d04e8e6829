"""Lay the edits of an adapter over the tensors of a model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ...errors import InputError
from ...messages import did_you_mean, show, some
from ...spec.dtypes import FLOAT8, FLOATS
from ..changes import Change
from ..checkpoint import Checkpoint
from ..tensors import TensorInfo
from ..tied import is_head, nearest_embedding, tied_pairs
from .adapter import Adapter, Edit
from .cutting import cut, is_part, n_rows_of, refuse_rows
from .fitting import WAY_OUT, check_fits
from .readings import are_turned, settled
from .targets import Spot, Targets
from .tied_edits import for_tied

_OTHER_HEADS: Final = re.compile(
    r"(?:\A|\.)(?:cls\.predictions\.decoder|lm_head\.decoder|proj_out|vocab_projector"
    r"|generator_lm_head|embed_out)\.weight\Z"
)
"""Heads that files leave out where they are tied, beside those that ``is_head`` knows."""


def place(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """Give the tensors of a model the changes that an adapter makes to them.

    An edit finds its tensor by name, with or without the prefixes of hosts, wrappers and folders,
    or by the layout map, which knows modules that are fused, split, stacked or renamed. Names that
    are tied change together. The changes follow those of adapters placed before.

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
    adapter = for_tied(checkpoint, adapter)
    tensors = dict(checkpoint.tensors)
    targets = Targets(tensors, checkpoint.config)
    tied = _tied(checkpoint)
    taken: dict[str, list[tuple[Spot, Edit]]] = {}
    turned = are_turned(adapter.edits, targets.shape_of)
    for stated in adapter.edits:
        one = settled(stated, targets.shape_of, turned)
        edit, changes = _fitting(checkpoint, targets, tensors, one)
        for spot, change in changes:
            taken.setdefault(spot.name, []).append((spot, edit))
            for name in tied.get(spot.name, (spot.name,)):
                tensors[name] = changed(tensors[name], change)
    for name, changes_of in taken.items():
        _check_parts(checkpoint.tensors[name], changes_of)
        if name not in tied:
            _refuse_overlaps(name, changes_of)
    return replace(checkpoint, tensors=tensors, adapters=(*checkpoint.adapters, adapter))


def changed(tensor: TensorInfo, change: Change | TensorInfo) -> TensorInfo:
    """Return a tensor with one more change, or the tensor that replaces it as the model has it."""
    if isinstance(change, TensorInfo):
        own = tensor.decoded_dtype
        rounds = {own, change.dtype} <= FLOATS - FLOAT8 and own != change.dtype
        return replace(
            change, name=tensor.name, stands_as=own if rounds else None, stored_as=change.name
        )
    return replace(tensor, changes=(*tensor.changes, change))


def _fitting(
    checkpoint: Checkpoint, targets: Targets, tensors: Mapping[str, TensorInfo], stated: Edit
) -> tuple[Edit, list[tuple[Spot, Change | TensorInfo]]]:
    """Return the first reading of an edit that fits the model, and its changes by spot."""
    refusals = []
    for edit in (stated, *stated.others):
        try:
            changes = []
            for spot in _target(checkpoint, targets, edit):
                tensor = tensors[spot.name]
                change = cut(edit, spot, tensor)
                check_fits(edit, change, tensor, is_part=is_part(spot, tensor))
                changes.append((spot, change))
        except InputError as refusal:
            refusals.append(refusal)
        else:
            return edit, changes
    raise refusals[0]


def _target(checkpoint: Checkpoint, targets: Targets, edit: Edit) -> tuple[Spot, ...]:
    """Return the tensors, or rows of them, that an edit changes."""
    found = targets.find(edit.name, n_rows_of(edit.change))
    if len(found) == 1:
        return next(iter(found.values()))
    may_be_tied = is_head(edit.name) or _OTHER_HEADS.search(edit.name)
    if not found and may_be_tied and checkpoint.config().get("tie_word_embeddings", True):
        # The files have the values of a tied head once, under the name of the embedding.
        embedding = nearest_embedding(edit.name, checkpoint.tensors) or _only_embedding(checkpoint)
        if embedding is not None:
            return (Spot(embedding),)
    told = edit.told_by
    start = f"{told.path}: tensor {show(told.name)} changes {show(edit.name)}, "
    if found:
        raise InputError(
            f"{start}which may be any of {some([*found])} in {checkpoint.path}; name its model's "
            f"directory or file by itself, or {WAY_OUT}"
        )
    hint = did_you_mean(edit.name, checkpoint.tensors)
    raise InputError(f"{start}which {checkpoint.path} lacks{hint}; {WAY_OUT}")


def _only_embedding(checkpoint: Checkpoint) -> str | None:
    """Return the one embedding of a model that calls it neither for words nor for tokens."""
    found = [one for one in checkpoint.tensors if one.endswith(("embeddings.weight", "wte.weight"))]
    return found[0] if len(found) == 1 else None


def _check_parts(tensor: TensorInfo, changes: list[tuple[Spot, Edit]]) -> None:
    """Refuse changes of parts whose rows do not make those of the tensor together."""
    rows: dict[int, int] = {}
    for spot, edit in changes:
        if spot.part is not None and spot.n_rows is not None:
            if why := spot.part.objection(spot.n_rows, rows):
                refuse_rows(edit, tensor, why)
            rows[spot.part.index] = spot.n_rows


def _refuse_overlaps(name: str, changes: list[tuple[Spot, Edit]]) -> None:
    """Refuse changes of the same rows under two names; a tied head has two."""
    reached, last = 0.0, changes[0][1]
    for spot, edit in sorted(changes, key=lambda one: one[0].first_row):
        names = (last.name, edit.name)
        if spot.first_row < reached and len({*names}) > 1 and not any(map(is_head, names)):
            raise InputError(
                f"{edit.told_by.path}: tensors {show(last.told_by.name)} and "
                f"{show(edit.told_by.name)} both change {show(name)}, expected tensors of their "
                f"own; {WAY_OUT}"
            )
        end = math.inf if spot.n_rows is None else spot.first_row + spot.n_rows
        if end >= reached:
            reached, last = end, edit


def _tied(checkpoint: Checkpoint) -> dict[str, tuple[str, ...]]:
    """Return, by each tied name, all names that share its values."""
    groups: dict[str, list[str]] = {}
    for alias, canonical in tied_pairs(checkpoint):
        groups.setdefault(canonical, [canonical]).append(alias)
    return {name: tuple(group) for group in groups.values() for name in group}
