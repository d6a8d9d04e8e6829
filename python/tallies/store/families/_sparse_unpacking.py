"""The pass that restores tensors of a task from masks and values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..._core import Limits, count_masks, restore
from ...checkpoint.tensors import TensorInfo
from ...engine.files import Place, PlanFiles
from ...engine.fingerprints import content
from ._sparse_layout import (
    Values,
    part_places,
    refuse_other_count,
    scales_name,
    source_of,
    values_name,
    values_place,
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
    """True if a result is not finite in its dtype; always false where elements are replaced."""


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
        InputError: The file holds another number of values than it should.
        StorageError: Reading or writing fails.
    """
    values = Values.of(parameters)
    entries = [part_places(files, stored, name, values) for name in outputs]
    masks = [(base[name].n_stored, one[0]) for name, one in zip(outputs, entries, strict=True)]
    counts = count_masks(files.plan, masks, limits, progress)
    for name, starts in zip(outputs, counts, strict=True):
        refuse_other_count(stored[values_name(name)], starts.n_set)
    for (name, places), one, starts in zip(outputs.items(), entries, counts, strict=True):
        place = values_place(files, base[name], values)
        files.plan.add_job(
            base[name].n_stored,
            [place, source_of(base[name], one, starts, values)],
            [(file, offset, place[2]) for file, offset, _ in places],
        )
    results = restore(files.plan, limits, progress)
    quantized = values is Values.QUANTIZED
    return {
        name: Unpacked(
            base=result.inputs[0],
            mask=result.inputs[2],
            values=result.inputs[1],
            scales=content(stored[scales_name(name)]) if quantized else None,
            output=result.output,
            overflow=result.overflow,
        )
        for name, result in zip(outputs, results, strict=True)
    }
