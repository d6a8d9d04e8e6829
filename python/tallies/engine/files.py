"""The files of a native plan, and the places of tensors in them.

The one module that turns a stored tensor into an input or output of a native pass.
"""

from __future__ import annotations

import copy
import math
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from .._core import Plan
from ..checkpoint import changes as stated
from ..checkpoint.tensors import TensorInfo
from ..spec.dtypes import CODES_BY_SIZE, DTYPE_CODES, DTYPES
from .changes import factors_change, native_change
from .codes import PACKED_BITS
from .copies import CopiesInOrder
from .gathered import gathered_rows
from .norms import float32_values, norm_factors
from .operands import (
    Changed,
    GatheredRows,
    Operand,
    Place,
    Scaled,
    grain_of,
    moved,
    moved_operand,
    n_arrays,
    native,
    values_of,
)

__all__ = [
    "NOWHERE",
    "Changed",
    "GatheredRows",
    "Operand",
    "Place",
    "PlanFiles",
    "Scaled",
    "bits_code",
    "grain_of",
    "moved",
    "moved_operand",
    "n_arrays",
    "native",
    "place_code",
    "values_of",
]

NOWHERE: Final[Place] = (PACKED_BITS, 0, PACKED_BITS)
"""The place of an array that a job lacks."""

_BYTE: Final = CODES_BY_SIZE[1]


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
        self._gathered: list[Operand] = []
        """Keeps alive the divisors and rows that jobs read."""
        for path in paths:
            self._number(path)

    def over(self, plan: Plan) -> PlanFiles:
        """Return the same files for a plan that stands in for this one, with the same numbers."""
        other = copy.copy(self)
        other.plan = plan
        other._created = set()
        return other

    def create(self, path: str | os.PathLike[str], n_bytes: int) -> None:
        """Open a file for writing and make room for ``n_bytes``; earlier bytes in it stay."""
        self._numbers[os.fspath(path)] = self.plan.open_to_write(os.fspath(path), n_bytes)
        self._created.add(os.fspath(path))

    def close_written(self) -> None:
        """Close the files that were created, of which nothing is written any more.

        Raises:
            StorageError: The file system tells only now that bytes were lost.
        """
        for path in sorted(self._created):
            self.plan.close(self._numbers[path])
        self._created.clear()

    def path_of(self, number: int) -> str:
        """Return the path of an open file by its number in places."""
        return next(path for path, one in self._numbers.items() if one == number)

    def write_head(self, path: str | os.PathLike[str], head: bytes) -> None:
        """Write the first bytes of a created file, such as its header."""
        self.plan.write(self._numbers[os.fspath(path)], head, 0)

    def place(self, tensor: TensorInfo) -> Place:
        """Return the place of a tensor's values; of their bits, where the dtype does not merge."""
        return self._place(tensor, place_code(tensor.dtype))

    def operand(self, tensor: TensorInfo) -> Operand:
        """Return a tensor as an input of a job: its values, with its scale and its changes.

        A change that gives rows or columns a norm reads the tensor at once, and so does padding
        with the mean of all rows. A changed tensor in other rows is first written to a file
        without a name, in float32.

        Raises:
            StorageError: A file cannot be read.
        """
        if tensor.gathered is not None and tensor.n_elements:
            source = tensor.gathered.source
            found = gathered_rows(
                tensor.gathered,
                self._decoded_place(source) if source.changes else self._source(source),
                self._decoded_place,
                self.open_again,
            )
            self._gathered.append(found)
            return found
        if not tensor.n_elements:
            return self.place(tensor)
        return self._changed(self._source(tensor), tensor.changes, tensor.n_elements)

    def _source(self, tensor: TensorInfo) -> Place | Scaled:
        """Return the values of a tensor without its changes."""
        values = self.place(tensor)
        if tensor.scale is None or not tensor.n_elements:
            return values
        scales = self.place(tensor.scale.tensor)
        return Scaled(values, scales, *tensor.scale.rows_and_blocks(tensor))

    def _decoded_place(self, tensor: TensorInfo) -> Place:
        """Return the place of a tensor's values, of a copy in float32 if they must be decoded."""
        if tensor.scale is None and not tensor.changes and tensor.gathered is None:
            return self.place(tensor)
        values = self.operand(tensor)
        decoded = float32_values(self.open_again, values, tensor.n_elements)
        path, offset = self._copies.find_decoded(tensor, decoded)
        return (self._number(path), offset, DTYPE_CODES["F32"])

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
