"""The tensors that hold a sparse task vector: mask, values and scales of each tensor.

For each tensor NAME a task's file has the packed mask NAME, the kept values NAME::values in
row-major order and, for int8 values, a factor NAME::scales for each row.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from ..._core import Source, Starts
from ...checkpoint.layout import Entry
from ...checkpoint.tensors import TensorInfo
from ...engine.files import NOWHERE, Place, PlanFiles, native, place_code
from ...errors import InputError
from ...messages import show
from ...spec.dtypes import BY_NAME, CODES_BY_SIZE, DTYPES
from ..codecs.sparse import Sparse, ValueType


class Values(enum.IntEnum):
    """The meaning of kept values, as ``tallies::SparseValues``."""

    REPLACED = 0
    """The expert's own bits."""
    ADDED = 1
    """Entries of the task vector."""
    QUANTIZED = 2
    """Entries of the task vector in 8 bits, with a scale for each row."""

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Values:
        """Return the meaning for the parameters of the sparse codec."""
        if Sparse.codes_integers(parameters):
            return cls.REPLACED
        return cls.QUANTIZED if parameters["values"] == ValueType.INT8 else cls.ADDED


def values_name(name: str) -> str:
    """Return the name under which a task's file has the kept values of a tensor."""
    return f"{name}::values"


def scales_name(name: str) -> str:
    """Return the name under which a task's file has the row scales of int8 values."""
    return f"{name}::scales"


def n_rows(tensor: TensorInfo) -> int:
    """Return the number of scales that int8 values of a tensor have."""
    return tensor.shape[0] if len(tensor.shape) > 1 else 1


def part_names(name: str, values: Values) -> list[str]:
    """Return the names of all parts of a tensor: mask, values and perhaps scales."""
    scales = [scales_name(name)] if values is Values.QUANTIZED else []
    return [name, values_name(name), *scales]


def entries_of(
    name: str, tensor: TensorInfo, n_kept: int, parameters: Mapping[str, Any]
) -> list[Entry]:
    """Return the tensors of a task's file for one of the base, ``n_kept`` of whose elements stay.

    Args:
        name: The name of the tensor in the store.
        tensor: The tensor of the base.
        n_kept: The number of elements that the mask contains.
        parameters: All parameters of the sparse codec.
    """
    values = Values.of(parameters)
    dtype = "U8" if BY_NAME[tensor.dtype].n_bits else tensor.dtype
    if values is not Values.REPLACED:
        dtype = ValueType(parameters["values"]).dtype(dtype)
    entries: list[Entry] = [
        (name, "U8", ((tensor.n_stored + 7) // 8,)),
        (values_name(name), dtype, (n_kept,)),
    ]
    if values is Values.QUANTIZED:
        entries.append((scales_name(name), "F32", (n_rows(tensor),)))
    return entries


def input_of(files: PlanFiles, tensor: TensorInfo, values: Values) -> Place | Source:
    """Return a tensor of a model as an input of a job; the place of its bits if they are kept."""
    is_kept = values is Values.REPLACED
    return files.bits_place(tensor) if is_kept else native(files.operand(tensor))


def values_place(files: PlanFiles, tensor: TensorInfo, values: Values) -> Place:
    """Return the place of kept values; of their bits where bits are kept."""
    return files.bits_place(tensor) if values is Values.REPLACED else files.place(tensor)


def part_places(
    files: PlanFiles, tensors: Mapping[str, TensorInfo], name: str, values: Values
) -> tuple[Place, Place, Place]:
    """Return the places of mask, values and scales of a tensor."""
    scales = tensors.get(scales_name(name)) if values is Values.QUANTIZED else None
    return (
        files.mask_place(tensors[name]),
        values_place(files, tensors[values_name(name)], values),
        files.place(scales) if scales else NOWHERE,
    )


def row_length(tensor: TensorInfo) -> int:
    """Return how many elements of a tensor share the scale of int8 values; at least 1."""
    return max(tensor.n_stored // max(n_rows(tensor), 1), 1)


def source_of(
    tensor: TensorInfo, places: tuple[Place, Place, Place], starts: Starts, values: Values
) -> Source:
    """Return a task's part of a tensor, whose mask, values and scales lie at these places."""
    mask, kept, scales = places
    if values is Values.QUANTIZED:
        return Source.quantized(
            values=kept, mask=mask, scales=scales, starts=starts, row_length=row_length(tensor)
        )
    replaces = values is Values.REPLACED
    return Source.sparse(values=kept, mask=mask, starts=starts, replaces=replaces)


def values_code(stored: TensorInfo, values: Values) -> int:
    """Return the native code of the dtype of kept values."""
    if values is Values.REPLACED:
        return CODES_BY_SIZE[DTYPES[stored.dtype]]
    return place_code(stored.dtype)


def refuse_names(tensors: Mapping[str, TensorInfo], parameters: Mapping[str, Any]) -> None:
    """Raise InputError if a tensor has the name under which parts of another are kept."""
    for name in tensors:
        for taken in part_names(name, Values.of(parameters))[1:]:
            if taken in tensors:
                raise InputError(
                    f"{tensors[taken].path}: has a tensor {show(taken)}, which is what a store "
                    f"calls a part of tensor {show(name)}; rename one of them"
                )


def refuse_other_count(values: TensorInfo, n_kept: int) -> None:
    """Raise InputError unless there are as many values as the mask has bits set."""
    if values.n_elements != n_kept:
        raise InputError(
            f"{values.path}: tensor {show(values.name)} has {values.n_elements} values, expected "
            f"{n_kept}, as many as the mask has bits; restore the file"
        )
