"""The tensors that hold the frames of a tensor, and the table of its blocks."""

from __future__ import annotations

from typing import Final

from ...checkpoint.layout import Entry
from ...checkpoint.tensors import TensorInfo
from ...coding import BLOCK, Fields
from ...spec.dtypes import DTYPES

OF_BASE: Final = 16
"""Added to the fields of a block that was coded with the base's elements."""

MOST_BYTES: Final = 8
"""The largest element that has planes."""


def blocks_name(name: str) -> str:
    """Return the name under which a task's file has the table of a tensor's blocks."""
    return f"{name}::blocks"


def unit_of(tensor: TensorInfo) -> int:
    """Return the bytes of the elements that a tensor is coded as; 1 for odd dtypes."""
    unit = DTYPES[tensor.dtype]
    return unit if unit in (1, 2, 4, 8) else 1


def n_units(tensor: TensorInfo) -> int:
    """Return the number of these elements."""
    return tensor.n_bytes // unit_of(tensor)


def n_blocks(tensor: TensorInfo) -> int:
    """Return the number of blocks that a tensor has."""
    return -(-n_units(tensor) // BLOCK)


def columns(unit: int) -> int:
    """Return the numbers of a row of the table: how, the bytes of each frame, and a check."""
    return unit + 2


def entries_of(tensor: TensorInfo, n_bytes: int) -> list[Entry]:
    """Return the tensors of a task's file for one of its tensors, of whose frames are n_bytes."""
    shape = (n_blocks(tensor), columns(unit_of(tensor)))
    return [(tensor.name, "U8", (n_bytes,)), (blocks_name(tensor.name), "U32", shape)]


def how_of(fields: Fields, *, of_base: bool) -> int:
    """Return the first number of a row of the table."""
    return int(fields) + (OF_BASE if of_base else 0)
