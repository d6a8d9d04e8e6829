"""The passes that write one task's sparse vectors: thresholds, counts, then masks and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..._core import Limits, Plan, SparseRule, SparseWritten, Unit, count_sparse, pack_sparse
from ...checkpoint.tensors import TensorInfo
from ...engine.codes import KEEP_ALL, KEEP_NONE
from ...engine.files import PlanFiles
from ...engine.fingerprints import content, tensor_fingerprint
from ...engine.nonfinite import REPAIR, objections
from ...engine.surveys.trims import rank
from ...errors import InputError
from ...messages import show
from ...spec.choices import PAPER, Equal, Scope
from ..codecs.sparse import Sparse
from ..layout import Layout
from ._sparse_layout import (
    Values,
    entries_of,
    input_of,
    part_places,
    refuse_names,
    row_length,
    values_name,
)

# Thresholds searched at a time, which share the room for magnitudes listed around them.
_SEARCHES_TOGETHER: Final = 64


@dataclass(frozen=True)
class Packed:
    """The result of packing a task; fingerprints are 16 hexadecimal digits by tensor name."""

    n_bytes: int
    """Bytes of the file."""
    n_set: dict[str, int]
    """Values kept of each tensor."""
    checksums: dict[str, str]
    """Fingerprints of the tensors of the file."""
    base: dict[str, str]
    expert: dict[str, str]


def pack(
    base: Mapping[str, TensorInfo],
    expert: Mapping[str, TensorInfo],
    path: Path,
    parameters: Mapping[str, Any],
    limits: Limits,
    *,
    refuse_nonfinite: bool = True,
    progress: Callable[[int], object] | None = None,
) -> Packed:
    """Write a file with what is kept of the tensors of ``expert`` that ``base`` names as well.

    With ``density: exact`` bits are kept, and NaN and infinity are elements like any other.

    Args:
        base: Tensors of the base by name.
        expert: Tensors of the expert by name, in the shapes of the base.
        path: The file to write, and its directory if there is none.
        parameters: All parameters of the sparse codec.
        limits: Threads and the size of buffers.
        refuse_nonfinite: Make a task vector with NaN or infinity an error.
        progress: Called with the bytes moved since the last call.

    Returns:
        Fingerprints and counts of everything read and written.

    Raises:
        InputError: Before the file is there: names collide, a dtype is not the base's where bits
            are kept, or a value is not finite. After it: a value overflows its dtype.
        StorageError: Reading or writing fails.
    """
    refuse_names(base, parameters)
    values = Values.of(parameters)
    pairs = [(tensor, expert[name]) for name, tensor in base.items()]
    if values is Values.REPLACED:
        _refuse_other_dtypes(pairs)
    files = PlanFiles(Plan(True))
    for pair in pairs:
        inputs = [input_of(files, one, values) for one in pair]
        files.plan.add_job(pair[0].n_stored, inputs, [])
    files.plan.hold(jobs=range(len(pairs)), n_bytes=limits.list_bytes)
    floors = _floors(files.plan, list(base.values()), parameters, limits, progress)
    rules = [
        SparseRule(job=job, values=values, floor=floor, row_length=row_length(tensor))
        for job, (floor, tensor) in enumerate(zip(floors, base.values(), strict=True))
    ]
    counts = count_sparse(plan=files.plan, rules=rules, limits=limits, progress=progress)
    for job, nonfinite in enumerate(counts.nonfinite):
        if refuse_nonfinite and nonfinite:
            raise InputError(_objection(files.plan, job, list(base)[job], pairs[job], limits))

    n_set = dict(zip(base, counts.n_set, strict=True))
    entries = [
        entry
        for name, tensor in base.items()
        for entry in entries_of(name, tensor, n_set[name], parameters)
    ]
    layout = Layout({path.name: entries})
    layout.create(files, path.parent)
    places = layout.places(path.parent)[path.name]
    written = pack_sparse(
        plan=files.plan,
        rules=rules,
        counts=counts,
        entries=[part_places(files, places, name, values) for name in base],
        limits=limits,
        progress=progress,
    )
    for name, result in zip(base, written, strict=True):
        if refuse_nonfinite and result.overflow:
            raise InputError(
                f"{expert[name].path}: tensor {show(name)}: expert - base overflows "
                f"{places[values_name(name)].dtype}; pass --param values=f32"
            )
    files.close_written()
    masks = {name: result.mask for name, result in zip(base, written, strict=True)}
    return Packed(
        n_bytes=layout.n_bytes,
        n_set=n_set,
        checksums={
            # Values begin anywhere in a stripe of the fingerprint: they are read once more.
            name: tensor_fingerprint(place, masks[name] if name in masks else content(place))
            for name, place in places.items()
        },
        base=_fingerprints(base, written, 0),
        expert=_fingerprints({name: expert[name] for name in base}, written, 1),
    )


def _floors(
    plan: Plan,
    tensors: Sequence[TensorInfo],
    parameters: Mapping[str, Any],
    limits: Limits,
    progress: Callable[[int], object] | None,
) -> list[int]:
    """Return for each tensor the bits of the largest magnitude that is dropped."""
    if Sparse.codes_integers(parameters) or not tensors:
        return [KEEP_NONE] * len(tensors)
    jobs = list(range(len(tensors)))
    by_tensor = parameters["scope"] == Scope.TENSOR
    floors: list[int] = []
    for groups in _batches([[job] for job in jobs] if by_tensor else [jobs]):
        sizes = [sum(tensors[job].n_stored for job in group) for group in groups]
        ranks = [rank(size, parameters["density"], Equal.KEEP, PAPER) for size in sizes]
        units = [
            Unit(jobs=group, ranks=[one.rank]) for group, one in zip(groups, ranks, strict=True)
        ]
        thresholds = plan.select(units=units, locate=False, limits=limits, progress=progress)
        for group, one, (found,) in zip(groups, ranks, thresholds, strict=True):
            unranked = KEEP_ALL if one.keep_all else KEEP_NONE
            floors += [found.bits - 1 if one.rank else unranked] * len(group)
    return floors


def _batches(groups: Sequence[list[int]]) -> Iterator[Sequence[list[int]]]:
    for first in range(0, len(groups), _SEARCHES_TOGETHER):
        yield groups[first : first + _SEARCHES_TOGETHER]


def _fingerprints(
    tensors: Mapping[str, TensorInfo], written: Sequence[SparseWritten], which: int
) -> dict[str, str]:
    return {
        name: tensor_fingerprint(tensor, result.inputs[which])
        for (name, tensor), result in zip(tensors.items(), written, strict=True)
    }


def _refuse_other_dtypes(pairs: Sequence[tuple[TensorInfo, TensorInfo]]) -> None:
    for base, expert in pairs:
        if expert.dtype != base.dtype:
            raise InputError(
                f"{expert.path}: tensor {show(expert.name)} is {expert.dtype}, expected "
                f"{base.dtype} as in {base.path}; convert the model, or pass a number as density"
            )


def _objection(
    plan: Plan, job: int, name: str, pair: tuple[TensorInfo, TensorInfo], limits: Limits
) -> str:
    for found in objections(plan, job, pair, limits):
        return found
    return f"{pair[1].path}: tensor {show(name)}: expert - base overflows F32; {REPAIR}"
