"""The files of a native plan, and the places of tensors in them.

The one module that turns a stored tensor into an input or output of a native pass.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeAlias

from .._core import Change, Plan, Source
from ..checkpoint import changes as stated
from ..checkpoint.tensors import TensorInfo
from ..spec.dtypes import CODES_BY_SIZE, DTYPE_BYTES, DTYPE_CODES, DTYPES
from .changes import factors_change, native_change
from .codes import PACKED_BITS
from .copies import CopiesInOrder
from .norms import norm_factors

Place: TypeAlias = tuple[int, int, int]
"""An array as native passes take it: file number and byte offset, or -1 and address; dtype code."""

NOWHERE: Final[Place] = (PACKED_BITS, 0, PACKED_BITS)
"""The place of an array that a job lacks."""

_BYTE: Final = CODES_BY_SIZE[1]


@dataclass(frozen=True)
class Scaled:
    """A float8 tensor that is read as its values times scales, one for each block of a matrix."""

    values: Place
    scales: Place
    row_length: int | None = None
    """Elements of a row, of the tensor's last dimension; None where one scale is for all."""
    block_rows: int | None = None
    block_columns: int | None = None

    @property
    def grain(self) -> int:
        """The elements of the rows that share scales: ``moved`` takes multiples."""
        return (self.block_rows or 1) * (self.row_length or 1)

    def moved(self, n_elements: int) -> Scaled:
        """Return the same, ``n_elements`` further on, a multiple of ``grain``."""
        scales = self.scales
        if self.row_length and self.block_columns:
            across = -(-self.row_length // self.block_columns)
            scales = moved(scales, n_elements // self.grain * across)
        return replace(self, values=moved(self.values, n_elements), scales=scales)

    def native(self) -> Source:
        """Return the same as native passes take it."""
        return Source.scaled(
            values=self.values,
            scales=self.scales,
            row_length=self.row_length,
            block_rows=self.block_rows,
            block_columns=self.block_columns,
        )


@dataclass(frozen=True)
class Changed:
    """A tensor that is read as its float32 values with the changes of adapters, made in order."""

    source: Place | Scaled | None
    """The values before; None for zeros, so that the changes alone are read."""
    changes: tuple[Change, ...]
    n_change_arrays: int = 0
    """The arrays that the changes are read from."""
    first: int = 0
    """The element of the tensor with which the source begins."""
    memory: tuple[object, ...] = field(default=(), compare=False)
    """Keeps alive what the changes read."""

    def then(self, change: Change, n_arrays: int, *memory: object) -> Changed:
        """Return the same with one more change, which is read from so many arrays."""
        return replace(
            self,
            changes=(*self.changes, change),
            n_change_arrays=self.n_change_arrays + n_arrays,
            memory=(*self.memory, *memory),
        )

    @property
    def grain(self) -> int:
        """The grain of the source."""
        return grain_of(self.source) if self.source else 1

    @property
    def values(self) -> Place:
        """The place of the source's stored values."""
        return values_of(self.source) if self.source else _ZEROS

    def moved(self, n_elements: int) -> Changed:
        """Return the same, ``n_elements`` further on, a multiple of ``grain``."""
        source = moved_operand(self.source, n_elements) if self.source else None
        assert not isinstance(source, Changed)
        return replace(self, source=source, first=self.first + n_elements)

    def native(self) -> Source:
        """Return the same as native passes take it."""
        source = native(self.source) if self.source else Source.zero()
        if not self.changes:
            return source if isinstance(source, Source) else Source.plain(values=source)
        return Source.changed(source=source, changes=self.changes, first=self.first)


_ZEROS: Final[Place] = (-1, 0, DTYPE_CODES["F32"])

Operand: TypeAlias = Place | Scaled | Changed
"""An input of a job, as the place of its values or as a form of them that is read by decoding."""


def native(operand: Operand) -> Place | Source:
    """Return an input of a job as native passes take it."""
    return operand if isinstance(operand, tuple) else operand.native()


def values_of(operand: Operand) -> Place:
    """Return the place of an input's stored values."""
    return operand if isinstance(operand, tuple) else operand.values


def grain_of(operand: Operand) -> int:
    """Return the elements of which ``moved_operand`` takes multiples."""
    return 1 if isinstance(operand, tuple) else operand.grain


def n_arrays(operand: Operand) -> int:
    """Return the number of arrays that an input is read from, the stored values among them."""
    match operand:
        case Scaled():
            return 2
        case Changed(source, _, n_change_arrays):
            return n_change_arrays + (n_arrays(source) if source else 0)
    return 1


def moved(place: Place, n_elements: int) -> Place:
    """Return the place ``n_elements`` further into an array of values."""
    file, offset, code = place
    return (file, offset + n_elements * DTYPE_BYTES[code], code)


def moved_operand(operand: Operand, n_elements: int) -> Operand:
    """Return an input ``n_elements`` further on, a multiple of its grain."""
    if isinstance(operand, tuple):
        return moved(operand, n_elements)
    return operand.moved(n_elements)


class PlanFiles:
    """The open files of a native plan, each opened once.

    Args:
        plan: The plan in which the files are opened. It closes them when it goes.
        paths: Files to open for reading at once. Others open when a tensor in them is asked for.

    Raises:
        StorageError: A file cannot be opened. All methods that open a file raise the same.
    """

    def __init__(self, plan: Plan, paths: Iterable[str | os.PathLike[str]] = ()) -> None:
        self.plan = plan
        self._numbers: dict[str, int] = {}
        self._created: set[str] = set()
        self._copies = CopiesInOrder()
        self._factors: dict[tuple[object, ...], array[float]] = {}
        for path in paths:
            self._number(path)

    def create(self, path: str | os.PathLike[str], n_bytes: int) -> None:
        """Open a file for writing and make room for ``n_bytes``; earlier bytes in it stay."""
        self._numbers[os.fspath(path)] = self.plan.open_to_write(os.fspath(path), n_bytes)
        self._created.add(os.fspath(path))

    def write_head(self, path: str | os.PathLike[str], head: bytes) -> None:
        """Write the first bytes of a created file, such as its header."""
        self.plan.write(self._numbers[os.fspath(path)], head, 0)

    def place(self, tensor: TensorInfo) -> Place:
        """Return the place of a tensor's values; of their bits, where the dtype does not merge."""
        return self._place(tensor, place_code(tensor.dtype))

    def operand(self, tensor: TensorInfo) -> Operand:
        """Return a tensor as an input of a job: its values, with its scale and its changes.

        A change that gives rows or columns a norm reads the tensor at once.

        Raises:
            StorageError: A file cannot be read.
        """
        values = self.place(tensor)
        if not tensor.n_elements:
            return values
        source: Place | Scaled = values
        if tensor.scale is not None:
            scales = self.place(tensor.scale.tensor)
            source = Scaled(values, scales, *tensor.scale.rows_and_blocks(tensor))
        return self._changed(source, tensor.changes, tensor.n_elements)

    def task_vector(self, changes: Sequence[stated.Change], shape: Sequence[int]) -> Operand:
        """Return what changes make of zeros of a shape, as an input of a job.

        For changes that add, this is the task vector of an adapter.
        """
        return self._changed(None, changes, math.prod(shape))

    def _changed(
        self, source: Place | Scaled | None, changes: Sequence[stated.Change], n_elements: int
    ) -> Operand:
        found = Changed(source, ())
        for number, change in enumerate(changes):
            if isinstance(change, stated.Magnitudes):
                key = (source, n_elements, tuple(changes[: number + 1]))
                if key not in self._factors:
                    self._factors[key] = norm_factors(self.open_again, found, n_elements, change)
                factors = self._factors[key]
                found = found.then(factors_change(factors, change), 1, factors)
            else:
                found = found.then(native_change(change, self.place), len(stated.pieces(change)))
        return found if found.changes or source is None else source

    def bits_place(self, tensor: TensorInfo) -> Place:
        """Return the place of a tensor whose values are moved bit for bit, whatever their dtype."""
        return self._place(tensor, bits_code(tensor.dtype))

    def mask_place(self, tensor: TensorInfo) -> Place:
        """Return the place of a tensor that is a packed mask, one bit for each element."""
        return self._place(tensor, PACKED_BITS)

    def bytes_place(self, tensor: TensorInfo) -> Place:
        """Return the place of a tensor as ``tensor.n_bytes`` elements of one byte."""
        return self._place(tensor, _BYTE)

    def write(self, tensor: TensorInfo, data: bytes, at: int = 0) -> None:
        """Write bytes of a tensor of a created file, from the tensor's byte ``at`` on."""
        self.plan.write(self._numbers[os.fspath(tensor.path)], data, tensor.offset + at)

    def writer(self, tensor: TensorInfo) -> Callable[[bytes, int], None]:
        """Return the function ``(data, at)`` that writes bytes of a tensor of a created file."""
        return partial(self.write, tensor)

    def open_again(self, has_base: bool = True) -> Plan:
        """Return a new plan in which the files to read are open under the same numbers.

        The numbers of created files are those of a file of no bytes there.
        """
        plan = Plan(has_base)
        for path in self._numbers:
            plan.open_to_read(os.devnull if path in self._created else path)
        return plan

    def _number(self, path: str | os.PathLike[str]) -> int:
        name = os.fspath(path)
        if name not in self._numbers:
            self._numbers[name] = self.plan.open_to_read(name)
        return self._numbers[name]

    def _place(self, tensor: TensorInfo, code: int) -> Place:
        if tensor.strides is not None:
            path, offset = self._copies.find(tensor)
            return (self._number(path), offset, code)
        return (self._number(tensor.path), tensor.offset, code)


def place_code(dtype: str) -> int:
    """Return the native code of a dtype; for one that does not merge, a code of its size."""
    return DTYPE_CODES.get(dtype, CODES_BY_SIZE[DTYPES[dtype]])


def bits_code(dtype: str) -> int:
    """Return a native code of a dtype's size, for values that are moved bit for bit."""
    return CODES_BY_SIZE[DTYPES[dtype]]
