"""Chains of patches: each must start from what the one before makes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final, TypeAlias

from .._core import StoredChanges
from ..checkpoint.checkpoint import Checkpoint
from ..errors import InputError
from ..messages import show
from ..spec.dtypes import DTYPES
from .layout import VALUES
from .manifest import Form, TensorChange, table
from .opened import Patch
from .part_change import PartChange
from .report import PatchReport

OnePatch: TypeAlias = "str | os.PathLike[str] | bytes | Patch | PatchReport"

_TAKEN_BACK: Final = {"xor": 0, "difference": 3}
"""The native codes of values that lead the other way."""


@dataclass(frozen=True)
class Link:
    """A patch in a direction: forwards, or backwards from the new model to the old one."""

    patch: Patch
    backwards: bool = False

    @property
    def label(self) -> str:
        """The patch in messages."""
        return self.patch.label

    @property
    def origin(self) -> str:
        """The model that the link starts from, in messages."""
        verb = "makes, to be taken back from" if self.backwards else "starts from"
        return f"the model that {self.label} {verb}"

    @property
    def old(self) -> str:
        """The fingerprint of the whole model that the link starts from."""
        return self.patch.manifest.new if self.backwards else self.patch.manifest.old

    @property
    def new(self) -> str:
        """The fingerprint of the whole model that the link makes."""
        return self.patch.manifest.old if self.backwards else self.patch.manifest.new

    @cached_property
    def changes(self) -> dict[str, TensorChange]:
        """The records of the tensors by name."""
        return {one.name: one for one in self.patch.manifest.tensors}

    @cached_property
    def old_table(self) -> dict[str, str]:
        """The fingerprints of the tensors that the link starts from."""
        return table(self.changes.values(), new=self.backwards)

    @cached_property
    def new_table(self) -> dict[str, str]:
        """The fingerprints of the tensors that the link makes."""
        return table(self.changes.values(), new=not self.backwards)

    def forms(self, *, new: bool) -> dict[str, Form]:
        """Return the dtypes and shapes of the tensors that the link starts from, or makes."""
        of_new = new != self.backwards
        found = {n: one.new_form if of_new else one.old_form for n, one in self.changes.items()}
        return {name: form for name, form in found.items() if form is not None}

    def part(self, name: str, number: int, threads: int = 1) -> PartChange | None:
        """Read the changes of a part of a tensor; None where nothing in the part changed.

        Args:
            name: The tensor.
            number: The number of the part.
            threads: The threads that decode.

        Raises:
            InputError: An entry is damaged.
            StorageError: An entry cannot be read.
        """
        found = self.patch.part(self.changes[name], number, threads)
        return None if found.layout == "none" else found

    @property
    def coding(self) -> int:
        """The native code of the values, in the direction of the link."""
        values = self.patch.manifest.values
        return _TAKEN_BACK[values] if self.backwards else VALUES.index(values)

    def stored(self, name: str, number: int, threads: int = 1) -> StoredChanges | None:
        """Read the changes of a part as native passes take them; as ``part``."""
        found = self.part(name, number, threads)
        if found is None:
            return None
        one = self.changes[name]
        n_elements, unit = one.parts[number].n_elements, DTYPES[one.dtype]
        try:
            return found.stored(self.coding, n_elements, unit)
        except InputError as error:
            raise self.damaged(name, number, error) from None

    def damaged(self, name: str, number: int, error: InputError) -> InputError:
        """Return the error of a part whose entries contradict each other."""
        return InputError(
            f"{self.label}: tensor {show(name)}, part {number}, is damaged: {error}; copy or make "
            "the patch again"
        )


def links_of(patches: OnePatch | Sequence[OnePatch], *, undo: bool = False) -> list[Link]:
    """Open a chain of patches and check it; no data are read but manifests and headers.

    Args:
        patches: The patches in the order in which they are applied.
        undo: Return the links that take the patches back, the last one first.

    Raises:
        InputError: A patch is none, a link is missing, foreign, given twice or in another place,
            two links start from one model, or a patch cannot be taken back.
        StorageError: A file cannot be read.
    """
    given = as_list(patches)
    links = [Link(Patch.open(one, f"patch {i + 1} (bytes)")) for i, one in enumerate(given)]
    if not links:
        raise InputError("patches: found none, expected at least one")
    for i, (before, after) in enumerate(pairwise(links)):
        if before.new != after.old:
            raise InputError(_broken(links, i))
    if not undo:
        return links
    for link in links:
        _refuse_undo(link.patch)
    return [Link(link.patch, backwards=True) for link in reversed(links)]


def as_list(patches: OnePatch | Sequence[OnePatch]) -> list[OnePatch]:
    """Return patches as a list, of one where one was given; InputError for what is none."""
    given = list(patches) if isinstance(patches, (list, tuple)) else [patches]
    return [_patch(one) for one in given]


def _patch(one: object) -> OnePatch:
    if isinstance(one, PatchReport):
        if one.kind != "made":
            raise InputError(f"patches: found the report on patches that were {one.kind}")
        one = one.path if one.data is None else one.data
    if not isinstance(one, (str, bytes, bytearray, memoryview, os.PathLike, Patch)):
        raise InputError(
            f"patches: found {type(one).__name__}, expected a path, the bytes of a patch, or a "
            "report of make_patch; several in a list"
        )
    return bytes(one) if isinstance(one, (bytearray, memoryview)) else one


def _broken(links: Sequence[Link], i: int) -> str:
    """Word why link ``i + 1`` does not follow link ``i``."""
    before, after = links[i], links[i + 1]
    name, found, expected = first_difference(before.new_table, after.old_table)
    fact = (
        f"{after.label}: does not start from what {before.label} makes: tensor {show(name)} has "
        f"fingerprint {found} there, and {expected} is expected"
    )
    if (before.old, before.new) == (after.old, after.new):
        return f"{fact}; the patch is given twice: give it once"
    if before.old == after.old:
        return f"{fact}; both start from one model, a fork: apply one of the two"
    order = _in_order(links)
    if order is not None:
        return f"{fact}; give the patches in their order: {', '.join(order)}"
    return f"{fact}; a patch between the two is missing, or one is of another model"


def _in_order(links: Sequence[Link]) -> list[str] | None:
    """Return the labels of links in the one order in which they are a chain; None without one."""
    by_old = {link.old: link for link in links}
    starts = by_old.keys() - {link.new for link in links}
    if len(by_old) < len(links) or len(starts) != 1:
        return None
    found = [by_old[starts.pop()]]
    while len(found) < len(links) and found[-1].new in by_old:
        found.append(by_old[found[-1].new])
    return [link.label for link in found] if len(found) == len(links) else None


def first_difference(found: Mapping[str, str], expected: Mapping[str, str]) -> tuple[str, str, str]:
    """Return the first tensor that differs, and its fingerprints; ``none`` where it is not."""
    for name in sorted(found.keys() | expected.keys()):
        pair = (found.get(name, "none"), expected.get(name, "none"))
        if pair[0] != pair[1]:
            return (name, *pair)
    raise AssertionError("tables of other fingerprints differ")


def _refuse_undo(patch: Patch) -> None:
    manifest = patch.manifest
    if manifest.values == "new":
        raise InputError(
            f"{patch.label}: its values are 'new' ones, which lead one way; a patch that can be "
            "taken back has values 'xor' or 'difference'"
        )
    for one in manifest.tensors:
        if one.change not in ("none", "changed"):
            raise InputError(
                f"{patch.label}: tensor {show(one.name)} is {one.change}, and only changes of "
                "elements can be taken back; keep the old model"
            )


def check_forms(target: Checkpoint, link: Link) -> None:
    """Raise InputError unless a model has the tensors that the first link starts from."""
    expected = link.forms(new=False)
    found = target.tensors
    way_out = f"name the model that it was made of (fingerprint {link.old})"
    for name in sorted(found.keys() ^ expected.keys()):
        where = "lacks" if name in expected else "has"
        raise InputError(
            f"{target.path}: is not {link.origin}: it {where} tensor {show(name)}; {way_out}"
        )
    for name, (dtype, shape) in expected.items():
        one = found[name]
        if (one.dtype, one.shape) != (dtype, shape):
            raise InputError(
                f"{one.path}: tensor {show(name)} is {one.dtype} {list(one.shape)}, and "
                f"{link.origin} has {dtype} {list(shape)}; {way_out}"
            )
