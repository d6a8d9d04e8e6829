"""The pass that restores tensors of a task from masks and values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..._core import Limits, SparseTensor, count_masks, unpack_sparse
from ...checkpoint.safetensors import TensorInfo
from ...engine.files import Place, PlanFiles
from ...engine.fingerprints import content
from ._sparse_layout import (
    Values,
    input_place,
    n_rows,
    part_places,
    refuse_other_count,
    refuse_other_entries,
    scales_name,
    values_name,
)


@dataclass(frozen=True)
class Unpacked:
    """Content fingerprints of one tensor's inputs and output, eight sums each."""

    base: list[int]
    mask: list[int]
    values: list[int]
    scales: list[int] | None
    output: list[int]
    overflow: bool
    """Whether a result is not finite in its dtype; always false where elements are replaced."""


def unpack(
    files: PlanFiles,
    base: Mapping[str, TensorInfo],
    stored: Mapping[str, TensorInfo],
    outputs: Mapping[str, Sequence[Place]],
    parameters: Mapping[str, Any],
    limits: Limits,
    *,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Unpacked]:
    """Write the task's tensors that ``outputs`` names to their places, in the dtype of the base.

    The caller compares the fingerprints.

    Args:
        files: The files of a plan, among them those of the outputs.
        base: Tensors of the base by name.
        stored: Tensors of the task's file by name.
        outputs: One place or more of each tensor, at most one of them in memory. The dtype is the
            base's, whatever the code of a place.
        parameters: All parameters of the sparse codec.
        limits: Threads and the size of buffers.
        progress: Called with the bytes moved since the last call.

    Raises:
        InputError: The file holds other tensors, or another number of values, than it should.
        StorageError: Reading or writing fails.
    """
    values = Values.of(parameters)
    tensors = []
    for name, places in outputs.items():
        refuse_other_entries(name, base[name], stored, parameters)
        place = input_place(files, base[name], values)
        tensors.append(
            SparseTensor(
                base[name].n_elements,
                values,
                n_rows(base[name]),
                place,
                part_places(files, stored, name, values),
                [(file, offset, place[2]) for file, offset, _ in places],
            )
        )
    counts = count_masks(files.plan, tensors, limits, progress)
    for name, n_kept in zip(outputs, counts.n_set, strict=True):
        refuse_other_count(stored[values_name(name)], n_kept)
    results = unpack_sparse(files.plan, tensors, counts, limits, progress)
    quantized = values is Values.QUANTIZED
    return {
        name: Unpacked(
            base=result.base,
            mask=result.mask,
            values=result.values,
            scales=content(stored[scales_name(name)]) if quantized else None,
            output=result.output,
            overflow=result.overflow,
        )
        for name, result in zip(outputs, results, strict=True)
    }
