"""The inputs of native jobs: places of values, and forms of them that are read by decoding."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from .._core import Change, Source, StoredRows
from ..spec.dtypes import DTYPE_BYTES, DTYPE_CODES

Place: TypeAlias = tuple[int, int, int]
"""An array as native passes take it: file number and byte offset, or -1 and address; dtype code."""


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
class GatheredRows:
    """A tensor whose rows are those of another one in another order, or zeros."""

    source: Place | Scaled
    rows: StoredRows
    """The row of the source for each row, from the tensor's first on; -1 for zeros."""
    columns: int
    """The elements of a row."""
    first_row: int = 0

    @property
    def grain(self) -> int:
        """The elements of a row: ``moved`` takes multiples."""
        return self.columns

    @property
    def values(self) -> Place:
        """The place of the source's stored values."""
        return values_of(self.source)

    def moved(self, n_elements: int) -> GatheredRows:
        """Return the same, ``n_elements`` further on, a multiple of ``grain``."""
        return replace(self, first_row=self.first_row + n_elements // self.columns)

    def native(self) -> Source:
        """Return the same as native passes take it."""
        return Source.gathered(
            source=native(self.source),
            rows=self.rows,
            columns=self.columns,
            first_row=self.first_row,
        )


@dataclass(frozen=True)
class Changed:
    """A tensor that is read as its float32 values with the changes of adapters, made in order."""

    source: Place | Scaled | GatheredRows | None
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

Operand: TypeAlias = Place | Scaled | GatheredRows | Changed
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
        case GatheredRows(source):
            return n_arrays(source)
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
