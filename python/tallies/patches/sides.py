"""Fits the two sides of a difference to each other: ties, adapters, and models of another kind."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from ..checkpoint.adapters.kinds import find_adapter, kind_of
from ..engine.arrays import is_torch
from ..engine.odd_tensors import odd_kind
from ..errors import InputError
from .models import InMemory, Model, OnDisk, Source, open_side
from .pairs import Pair


def open_sides(old: Source, new: Source, variant: str | None) -> tuple[Model, Model]:
    """Open both sides of a difference; tensors of a dict that share their memory count once.

    The name that counts is the one that the other side has; where both sides are dicts with the
    same ties, it is the first one in the order of the old dict, which is that of its module.

    Args:
        old: The model to start from.
        new: The model to reach.
        variant: The variant of the weights of models on disk.

    Raises:
        InputError: A model is none, or one side alone is an adapter.
        StorageError: A file cannot be read.
    """
    sides = (open_side(old, "old", variant), open_side(new, "new", variant))
    _refuse_one_adapter(sides)
    order = list(old) if isinstance(old, Mapping) else []
    ties = [_ties(one, order) if isinstance(one, Mapping) else [] for one in (old, new)]
    names = [side.forms.keys() for side in sides]
    spares = [_spare(ties[0], names[1], ties[1]), _spare(ties[1], names[0], ties[0])]
    for side, spare in zip(sides, spares, strict=True):
        if isinstance(side, InMemory):
            side.leave_out(spare)
    return sides


def _ties(tensors: Mapping[str, Any], order: list[str]) -> list[list[str]]:
    """Return the names of tensors that are one tensor in memory, in this order where it has any."""
    ranks = {name: rank for rank, name in enumerate(order)}
    found: dict[object, list[str]] = {}
    for name, value in tensors.items():
        face: tuple[Any, ...]
        if is_torch(value):
            if odd_kind(value) is not None or value.numel() == 0:
                continue
            face = (str(value.device), value.data_ptr(), value.stride())
        elif isinstance(getattr(value, "__array_interface__", None), dict) and value.size:
            face = ("cpu", value.__array_interface__["data"][0], value.strides)
        else:
            continue
        found.setdefault((*face, tuple(value.shape), str(value.dtype)), []).append(name)
    return [
        sorted(names, key=lambda name: ranks.get(name, len(ranks)))
        for names in found.values()
        if len(names) > 1
    ]


def _spare(ties: list[list[str]], other: Set[str], ties_of_other: list[list[str]]) -> set[str]:
    """Return the names that need not count beside those that the other side has."""
    tied_there = [set(names) for names in ties_of_other]
    spare: set[str] = set()
    for names in ties:
        there = [name for name in names if name in other]
        if not there or set(names) in tied_there:
            there = names[:1]
        spare.update(name for name in names if name not in there)
    return spare


def _refuse_one_adapter(sides: tuple[Model, Model]) -> None:
    adapters = [
        isinstance(side, OnDisk) and kind_of(find_adapter(side.checkpoint)) == "adapter"
        for side in sides
    ]
    if adapters[0] != adapters[1]:
        label = sides[adapters.index(True)].label
        raise InputError(
            f"{label}: is an adapter, and the other side is a model; merge it into its base "
            "('tallies merge BASE+ADAPTER'), and name the result"
        )


def warnings_of(pairs: list[Pair]) -> list[str]:
    """Return a warning where the two sides look like models that do not belong together."""
    both = [pair for pair in pairs if pair.old is not None and pair.new is not None]
    if pairs and not both:
        return [
            "the models share no name of a tensor: the patch holds all of the new one; compare "
            "the names ('tallies diff')"
        ]
    cast = [p for p in both if p.old and p.new and p.old[0] != p.new[0] and p.old[1] == p.new[1]]
    if 2 * len(cast) > len(both):
        old, new = cast[0].old, cast[0].new
        assert old is not None
        assert new is not None
        return [
            f"{len(cast)} of {len(both)} tensors have another dtype ({old[0]} and {new[0]}), and "
            "are stored whole: save both models in one dtype for a small patch"
        ]
    return []
