"""A tensor of a model: a named source of values in open files, whatever the format."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..spec.dtypes import n_stored
from .changes import Change
from .row_maps import Gathered

MAX_TENSOR_BYTES: Final = 2**63 - 1

MAX_DIMENSIONS: Final = 32
"""The most dimensions of a tensor; arrays of NumPy 1 have no more, and models fewer than ten."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The place of one tensor: ``n_bytes`` bytes of file ``path``, from absolute ``offset`` on.

    A view whose elements do not lie end to end has ``strides``. A float8 tensor that stands for
    its values times a scale has a ``scale``. A tensor that an adapter changes has ``changes``
    of its float32 values, made in their order, behind the scale. A tensor in other rows has
    ``gathered``, and the path and offset of the tensor that its rows are taken from.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    n_bytes: int
    """Bytes of all elements, without the bytes between the elements of a view."""
    strides: tuple[int, ...] | None = None
    """Distances of neighbours along each dimension, in elements; None: row-major, end to end."""
    scale: Scale | None = None
    changes: tuple[Change, ...] = ()
    stands_as: str | None = None
    """The dtype of the model's tensor in whose place an adapter puts this one, if it is another."""
    stored_as: str | None = field(default=None, compare=False)
    """The tensor's name in its file, if an adapter puts it in the place of the model's."""
    gathered: Gathered | None = None
    """The rows that the tensor is made of; it has no scale and no changes of its own then."""

    @property
    def is_decoded(self) -> bool:
        """True if the tensor's values are not those that are stored."""
        return (
            self.scale is not None
            or bool(self.changes)
            or self.stands_as is not None
            or self.gathered is not None
        )

    @property
    def n_elements(self) -> int:
        """The product of the shape; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def n_stored(self) -> int:
        """The elements, or the bytes of a type whose elements share them."""
        return n_stored(self.dtype, self.shape)

    @property
    def decoded_dtype(self) -> str:
        """The dtype of a result made of the tensor: its own, or that of its decoded values."""
        return self.scale.decoded_dtype if self.scale else self.stands_as or self.dtype


@dataclass(frozen=True, slots=True)
class Scale:
    """The factors of a float8 tensor, one for each block of rows and columns.

    The columns are the tensor's last dimension, the rows all others together. The factors are in
    row-major order of the blocks; blocks at the ends may be smaller.
    """

    tensor: TensorInfo
    block_rows: int
    block_columns: int
    decoded_dtype: str

    def rows_and_blocks(self, scaled: TensorInfo) -> tuple[int, int, int] | tuple[()]:
        """Return the length of a row and the block of ``scaled``; nothing for one factor in all."""
        if self.tensor.n_elements == 1:
            return ()
        return (scaled.shape[-1], self.block_rows, self.block_columns)
