"""Updates of other tools as the new side of a difference, and patches as elements that changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ..._core import PatchTask, Plan, Slice, apply_changes
from ...checkpoint.data import chunks
from ...checkpoint.tensors import TensorInfo
from ...engine.files import Place, PlanFiles
from ...engine.fingerprints import add_content, content_of, tensor_fingerprint
from ...engine.limits import limits_in_memory
from ...errors import InputError
from ...messages import show, unknown
from ...spec.dtypes import CODES_BY_SIZE, DTYPES
from ..chains import Link, OnePatch, check_forms, links_of
from ..making import make_patch
from ..manifest import Form, TensorChange
from ..models import OnDisk, Write, open_stored
from ..report import PatchReport

Bits: TypeAlias = npt.NDArray[Any]
"""The bit patterns of a tensor's elements, flat, as unsigned numbers of their size."""
Change: TypeAlias = Callable[[Bits], None]
"""Changes the elements of a tensor in place."""

MOST_POSITIONS: Final = 2**31
"""Elements of a tensor that positions of 32 bits can name."""


class Updated:
    """A model with an update on it, one tensor of which is in memory at a time.

    Args:
        base: The model.
        changes: By the name of a tensor, what changes it, in order.
        label: The update in messages.
    """

    def __init__(self, base: OnDisk, changes: Mapping[str, Sequence[Change]], label: str) -> None:
        self._base = base
        self._changes = changes
        self.label = label
        for name in changes:
            if name not in base.forms:
                raise InputError(f"{label}: tensor of {base.label}: {unknown(name, base.forms)}")

    @property
    def forms(self) -> dict[str, Form]:
        """The dtype and shape of each tensor, those of the model."""
        return self._base.forms

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the model."""
        return self._base.files

    def place(self, files: PlanFiles, name: str) -> tuple[Place, object]:
        """Return the place of a tensor's bit patterns, and what keeps it there."""
        if name not in self._changes:
            return self._base.place(files, name)
        bits = self._bits(name)
        return (-1, bits.ctypes.data, CODES_BY_SIZE[bits.itemsize]), bits

    def copy_out(self, name: str, write: Write) -> list[int]:
        """Hand over the bytes of a tensor, and return their content fingerprint."""
        if name not in self._changes:
            return self._base.copy_out(name, write)
        data = self._bits(name).tobytes()
        write(data, 0)
        return content_of(data)

    def content(self, name: str) -> list[int]:
        """Return the content fingerprint of a tensor."""
        if name not in self._changes:
            return self._base.content(name)
        return content_of(self._bits(name).tobytes())

    def small_files(self) -> dict[str, Path]:
        """Return the small files beside the weights, those of the model."""
        return self._base.small_files()

    def _bits(self, name: str) -> Bits:
        bits = bits_of(self._base.checkpoint.tensors[name])
        for change in self._changes[name]:
            change(bits)
        return bits


def make(
    base: str | os.PathLike[str],
    changes_of: Callable[[Mapping[str, Form]], Mapping[str, Sequence[Change]]],
    label: str,
    out: str | os.PathLike[str] | None,
    options: Mapping[str, Any],
) -> PatchReport:
    """Make a patch of an update and the model that the update is of.

    Args:
        base: The model.
        changes_of: Returns what changes each tensor, from the forms of the model's tensors.
        label: The update in messages.
        out: The patch to write, as for ``make_patch``.
        options: Further arguments of ``make_patch``.
    """
    side = OnDisk(open_stored(base))
    return make_patch(side, Updated(side, changes_of(side.forms), label), out, **options)


def bits_of(tensor: TensorInfo) -> Bits:
    """Read the elements of a tensor as whole numbers of their size."""
    data = bytearray().join(chunks(tensor))
    return np.frombuffer(data, word(tensor.dtype))


def word(dtype: str) -> np.dtype[Any]:
    """Return the unsigned type of as many bytes as an element of a dtype has."""
    return np.dtype(f"<u{DTYPES[dtype]}")


def placed(where: str, positions: npt.NDArray[Any], values: Bits, n_elements: int) -> Change:
    """Return the change that puts values at positions of a tensor.

    Args:
        where: The tensor in messages.
        positions: Whole numbers.
        values: As many bit patterns.
        n_elements: The elements of the tensor.

    Raises:
        InputError: A position lies outside or is there twice, or there are other numbers of both.
    """
    if positions.ndim != 1 or values.ndim != 1 or positions.size != values.size:
        raise InputError(
            f"{where}: has positions {list(positions.shape)} and values {list(values.shape)}, "
            "expected as many in one row"
        )
    at = positions.astype(np.int64)
    if at.size:
        order = at if bool(np.all(at[1:] > at[:-1])) else np.sort(at)
        if order[0] < 0 or order[-1] >= n_elements:
            odd = order[0] if order[0] < 0 else order[-1]
            raise InputError(
                f"{where}: has position {int(odd)}, expected one from 0 to {n_elements - 1}"
            )
        twice = np.flatnonzero(order[1:] == order[:-1])
        if twice.size:
            raise InputError(f"{where}: has position {int(order[twice[0]])} twice")

    def change(bits: Bits) -> None:
        bits[at] = values

    return change


def whole(values: Bits) -> Change:
    """Return the change that replaces all elements of a tensor."""

    def change(bits: Bits) -> None:
        bits[:] = values

    return change


@dataclass(frozen=True)
class ChangedTensor:
    """A tensor that a patch changes, before and after."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    old: Bits
    new: Bits

    def positions(self) -> npt.NDArray[np.intp]:
        """Return the elements that differ in a bit, in order."""
        return np.flatnonzero(self.old != self.new)


def changed_tensors(patch: OnePatch, base: str | os.PathLike[str]) -> Iterator[ChangedTensor]:
    """Yield the tensors that a patch changes, one in memory at a time.

    Args:
        patch: The patch.
        base: The model that it starts from, whose changed tensors are compared with the
            fingerprints of the patch.

    Raises:
        InputError: The patch is damaged or of another model, or has other changes than those of
            elements.
        StorageError: A file cannot be read.
    """
    links = links_of(patch)
    if len(links) > 1:
        raise InputError(
            f"patch: found {len(links)} of them, expected one; apply them, and make a patch of the "
            "first model and the last"
        )
    link = links[0]
    side = open_stored(base)
    check_forms(side, link)
    for one in link.changes.values():
        if one.change not in ("none", "changed"):
            raise InputError(
                f"{link.label}: tensor {show(one.name)} is {one.change}, and the other layout has "
                "changes of elements alone"
            )
    for one in link.changes.values():
        if one.change == "changed":
            yield _changed(link, one, side.tensors[one.name])


def _changed(link: Link, one: TensorChange, tensor: TensorInfo) -> ChangedTensor:
    old = bits_of(tensor)
    new = old.copy()
    plan = Plan(False)
    place = (-1, new.ctypes.data, CODES_BY_SIZE[new.itemsize])
    plan.add_job(new.size, [place], [place])
    tasks = []
    for number, part in enumerate(one.parts):
        if (changes := link.stored(one.name, number)) is not None:
            piece = Slice(job=0, first=part.first, n_elements=part.n_elements)
            tasks.append(PatchTask(slice=piece, chain=[changes]))
    limits = limits_in_memory(None)
    apply_changes(plan=plan, tasks=tasks, limits=limits, with_old=False, with_new=False)
    for bits, expected, which in ((old, one.old, "starts from"), (new, one.new, "makes")):
        lanes = [0] * 8
        add_content(lanes, content_of(bits.tobytes()))
        if (found := tensor_fingerprint(one, lanes)) != expected:
            raise InputError(
                f"{tensor.path}: tensor {show(one.name)} has fingerprint {found}, and {link.label} "
                f"{which} {expected}; name the model that the patch was made of"
            )
    return ChangedTensor(one.name, one.dtype, one.shape, old, new)
