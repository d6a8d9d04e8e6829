"""The file of one task of the sparse codec: written in passes over base and expert, read in one.

For each tensor NAME it holds the packed mask, NAME::values with what is kept in row-major order
and, for int8 values, NAME::scales with a factor for each row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._core import (
    Limits,
    Plan,
    Source,
    SparseRule,
    SparseWritten,
    Starts,
    Unit,
    count_mask,
    count_masks,
    count_sparse,
    pack_sparse,
    restore,
)
from ...checkpoint.data import same_tensor
from ...checkpoint.layout import Entry, header, tensor_bytes
from ...checkpoint.safetensors import TensorInfo
from ...engine.codes import KEEP_ALL, KEEP_NONE, PACKED_BITS
from ...engine.files import Place, PlanFiles
from ...engine.fingerprints import content, tensor_fingerprint
from ...engine.nonfinite import nonfinite_objection
from ...engine.surveys.trims import trim
from ...errors import InputError
from ...messages import show
from ...spec.choices import PAPER
from ...spec.dtypes import CODES_BY_SIZE, DTYPE_CODES, DTYPES, named
from ...spec.rules import Blend, Gate, Rule, Vote
from ..codecs.sparse import Sparse
from ..manifest import Manifest
from ..packing.run import PackRun
from . import sparse as sparse_files

Progress = Callable[[int], object]
"""Called with the bytes moved since the last call."""

# How values are kept, as tallies::SparseValues.
_REPLACED, _ADDED, _QUANTIZED = range(3)


_RULE = Rule(Gate.MAGNITUDE, Vote.NONE, Blend.SUM)

# Thresholds searched at a time, which share the room for magnitudes listed around them.
_SEARCHES_TOGETHER = 64

_NOWHERE: Place = (PACKED_BITS, 0, PACKED_BITS)


@dataclass(frozen=True)
class Packed:
    """What was written and read; fingerprints are 16 hexadecimal digits by tensor name."""

    n_bytes: int
    """Of the file."""
    n_set: dict[str, int]
    """Values kept of each parameter tensor."""
    checksums: dict[str, str]
    """Of the tensors of the file."""
    base: dict[str, str]
    expert: dict[str, str]


@dataclass(frozen=True)
class Unpacked:
    """Content fingerprints of what was read and written of one tensor, eight sums each."""

    base: list[int]
    mask: list[int]
    values: list[int]
    scales: list[int] | None
    output: list[int]
    overflow: bool
    """Whether a result is not finite in its dtype; always false where elements are replaced."""


def values_name(name: str) -> str:
    """Under which name a task's file has the values kept of a tensor."""
    return f"{name}::values"


def scales_name(name: str) -> str:
    """Under which name a task's file has the scale of each row of int8 values."""
    return f"{name}::scales"


def n_rows(tensor: TensorInfo) -> int:
    """How many scales int8 values of a tensor have."""
    return tensor.shape[0] if len(tensor.shape) > 1 else 1


def row_length(tensor: TensorInfo) -> int:
    """Return how many elements of a tensor share the scale of int8 values; at least 1."""
    return max(tensor.n_elements // max(n_rows(tensor), 1), 1)


def entries_of(
    name: str, tensor: TensorInfo, n_set: int, parameters: Mapping[str, Any]
) -> list[Entry]:
    """What a task's file holds of a tensor of the base when ``n_set`` of its elements are kept."""
    dtype = tensor.dtype
    if _kind(parameters) != _REPLACED:
        dtype = named(parameters["values"]) or dtype
    entries: list[Entry] = [
        (name, "U8", ((tensor.n_elements + 7) // 8,)),
        (values_name(name), dtype, (n_set,)),
    ]
    if _kind(parameters) == _QUANTIZED:
        entries.append((scales_name(name), "F32", (n_rows(tensor),)))
    return entries


def refuse_names(tensors: Mapping[str, TensorInfo], parameters: Mapping[str, Any]) -> None:
    """Raise InputError if a tensor has the name under which parts of another are kept."""
    for name, tensor in tensors.items():
        for taken, _, _ in entries_of(name, tensor, 0, parameters)[1:]:
            if taken in tensors:
                raise InputError(
                    f"{tensors[taken].path}: has a tensor {show(taken)}, which is what a store "
                    f"calls a part of tensor {show(name)}; rename one of them"
                )


def pack(
    base: Mapping[str, TensorInfo],
    expert: Mapping[str, TensorInfo],
    path: Path,
    parameters: Mapping[str, Any],
    limits: Limits,
    *,
    refuse_nonfinite: bool = True,
    progress: Progress | None = None,
) -> Packed:
    """Write to ``path`` what is kept of the tensors of ``expert`` that ``base`` names as well.

    Shapes are the same in both; ``parameters`` are all those of ``Sparse``. Where bits are kept
    (``density: exact``), NaN and infinity are as good as other elements; else ``refuse_nonfinite``
    makes task vectors with them an error.

    InputError, before the file is there, for names that collide, for a dtype that is not the base's
    where bits are kept, and for NaN and infinity; after it, for values that overflow their dtype.
    """
    refuse_names(base, parameters)
    kind = _kind(parameters)
    pairs = [(tensor, expert[name]) for name, tensor in base.items()]
    if kind == _REPLACED:
        _refuse_other_dtypes(pairs)
    core = Plan(True)
    inputs = PlanFiles(core)
    for pair in pairs:
        core.add_job(pair[0].n_elements, [_place(inputs, one, kind) for one in pair], [])
    floors = _floors(core, list(base.values()), parameters, limits, progress)
    rules = [
        SparseRule(job, kind, floor, row_length(tensor))
        for job, (floor, tensor) in enumerate(zip(floors, base.values(), strict=True))
    ]
    counts = count_sparse(core, rules, limits, progress)
    for job, nonfinite in enumerate(counts.nonfinite):
        if refuse_nonfinite and nonfinite:
            raise InputError(_objection(core, job, list(base)[job], pairs[job], limits))

    n_set = dict(zip(base, counts.n_set, strict=True))
    head, places = _lay_out(base, n_set, parameters, path)
    n_bytes = len(head) + sum(place.n_bytes for place in places.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    file = core.open_to_write(os.fspath(path), n_bytes)
    core.write(file, head, 0)
    written = pack_sparse(
        core,
        rules,
        counts,
        [_places(places, name, file, kind) for name in base],
        limits,
        progress,
    )
    for name, result in zip(base, written, strict=True):
        if refuse_nonfinite and result.overflow:
            raise InputError(
                f"{expert[name].path}: tensor {show(name)}: expert - base overflows "
                f"{places[values_name(name)].dtype}; pass --param values=f32"
            )
    masks = {name: result.mask for name, result in zip(base, written, strict=True)}
    return Packed(
        n_bytes=n_bytes,
        n_set=n_set,
        checksums={
            # Values begin anywhere in a stripe of the fingerprint: they are read once more.
            name: tensor_fingerprint(place, masks[name] if name in masks else content(place))
            for name, place in places.items()
        },
        base=_fingerprints(base, written, 0),
        expert=_fingerprints({name: expert[name] for name in base}, written, 1),
    )


def unpack(
    core: Plan,
    base: Mapping[str, TensorInfo],
    stored: Mapping[str, TensorInfo],
    outputs: Mapping[str, Sequence[Place]],
    parameters: Mapping[str, Any],
    limits: Limits,
    *,
    progress: Progress | None = None,
) -> dict[str, Unpacked]:
    """Write the task's tensors that ``outputs`` names to these places, in the dtype of the base.

    ``stored`` has the tensors of the task's file. Output files are those of ``core``; each tensor
    has a place or more, of which one at most in memory, and the dtype is the base's, whatever the
    place's code. Fingerprints are left to the caller to compare.

    InputError for a file that holds other tensors, or another number of values, than it should;
    StorageError when reading or writing fails.
    """
    kind = _kind(parameters)
    inputs = PlanFiles(core)
    entries = []
    for name in outputs:
        _refuse_other_entries(name, base[name], stored, parameters)
        entries.append(_places(stored, name, inputs.mask_place(stored[name])[0], kind))
    masks = [
        (base[name].n_elements, mask) for name, (mask, _, _) in zip(outputs, entries, strict=True)
    ]
    counts = count_masks(core, masks, limits, progress)
    for name, starts in zip(outputs, counts, strict=True):
        _refuse_other_count(stored[values_name(name)], starts.n_set)
    for (name, places), one, starts in zip(outputs.items(), entries, counts, strict=True):
        tensor = base[name]
        place = _place(inputs, tensor, kind)
        core.add_job(
            tensor.n_elements,
            [place, _source(tensor, one, starts, kind)],
            [(file, offset, place[2]) for file, offset, _ in places],
        )
    results = restore(core, limits, progress)
    return {
        name: Unpacked(
            base=result.inputs[0],
            mask=result.inputs[2],
            values=result.inputs[1],
            scales=content(stored[scales_name(name)]) if kind == _QUANTIZED else None,
            output=result.output,
            overflow=result.overflow,
        )
        for name, result in zip(outputs, results, strict=True)
    }


def parts(
    name: str, stored: Mapping[str, TensorInfo], parameters: Mapping[str, Any]
) -> list[TensorInfo]:
    """Where mask, values and, if they are quantized, scales of a tensor lie."""
    scales = [stored[scales_name(name)]] if _kind(parameters) == _QUANTIZED else []
    return [stored[name], stored[values_name(name)], *scales]


def in_memory(
    tensor: TensorInfo,
    stored: Sequence[TensorInfo],
    addresses: Sequence[int],
    parameters: Mapping[str, Any],
) -> Source:
    """Return what a task stores of a tensor, once its ``parts`` were read to these addresses.

    Where bits are stored, they replace those of the base; else they are added.

    Raises:
        InputError: The mask has another number of bits than there are values.
    """
    kind = _kind(parameters)
    mask, values, *scales = addresses
    starts = count_mask(mask=mask, n_elements=tensor.n_elements)
    _refuse_other_count(stored[1], starts.n_set)
    places = (
        (-1, mask, PACKED_BITS),
        (-1, values, _code(stored[1], kind)),
        (-1, scales[0], DTYPE_CODES["F32"]) if scales else _NOWHERE,
    )
    return _source(tensor, places, starts, kind)


def _source(
    tensor: TensorInfo, places: tuple[Place, Place, Place], starts: Starts, kind: int
) -> Source:
    """Return a task's part of a tensor, whose mask, values and scales lie at these places."""
    mask, values, scales = places
    if kind == _QUANTIZED:
        return Source.quantized(
            values=values, mask=mask, scales=scales, starts=starts, row_length=row_length(tensor)
        )
    return Source.sparse(values=values, mask=mask, starts=starts, replaces=kind == _REPLACED)


def _kind(parameters: Mapping[str, Any]) -> int:
    if Sparse.is_exact(parameters):
        return _REPLACED
    return _QUANTIZED if parameters["values"] == "int8" else _ADDED


def _place(files: PlanFiles, tensor: TensorInfo, kind: int) -> Place:
    return files.bits_place(tensor) if kind == _REPLACED else files.place(tensor)


def _code(tensor: TensorInfo, kind: int) -> int:
    if kind == _REPLACED or tensor.dtype not in DTYPE_CODES:
        return CODES_BY_SIZE[DTYPES[tensor.dtype]]
    return DTYPE_CODES[tensor.dtype]


def _lay_out(
    base: Mapping[str, TensorInfo],
    n_set: Mapping[str, int],
    parameters: Mapping[str, Any],
    path: Path,
) -> tuple[bytes, dict[str, TensorInfo]]:
    """The first bytes of a task's file, and where its tensors lie."""
    entries = [
        entry
        for name, tensor in base.items()
        for entry in entries_of(name, tensor, n_set[name], parameters)
    ]
    head, offsets = header(entries)
    return head, {
        entry[0]: TensorInfo(entry[0], entry[1], tuple(entry[2]), path, at, tensor_bytes(entry))
        for entry, at in zip(entries, offsets, strict=True)
    }


def _places(
    tensors: Mapping[str, TensorInfo], name: str, file: int, kind: int
) -> tuple[Place, Place, Place]:
    """Where mask, values and scales of a tensor lie."""
    values = tensors[values_name(name)]
    scales = tensors.get(scales_name(name)) if kind == _QUANTIZED else None
    return (
        (file, tensors[name].offset, PACKED_BITS),
        (file, values.offset, _code(values, kind)),
        (file, scales.offset, DTYPE_CODES["F32"]) if scales else _NOWHERE,
    )


def _floors(
    core: Plan,
    tensors: Sequence[TensorInfo],
    parameters: Mapping[str, Any],
    limits: Limits,
    progress: Progress | None,
) -> list[int]:
    """For each tensor the bits above which a magnitude is kept."""
    if Sparse.is_exact(parameters) or not tensors:
        return [KEEP_NONE] * len(tensors)
    jobs = list(range(len(tensors)))
    by_tensor = parameters["scope"] == "tensor"
    floors: list[int] = []
    for groups in _batches([[job] for job in jobs] if by_tensor else [jobs]):
        trims = [
            trim(
                sum(tensors[j].n_elements for j in group),
                parameters["density"],
                _RULE,
                PAPER,
            )
            for group in groups
        ]
        units = [Unit(group, [one.rank]) for group, one in zip(groups, trims, strict=True)]
        thresholds = core.select(units, False, limits, progress)
        for group, one, (found,) in zip(groups, trims, thresholds, strict=True):
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


def _refuse_other_entries(
    name: str, tensor: TensorInfo, stored: Mapping[str, TensorInfo], parameters: Mapping[str, Any]
) -> None:
    values = stored.get(values_name(name))
    n_set = values.n_elements if values is not None else 0
    for part, dtype, shape in entries_of(name, tensor, n_set, parameters):
        found = stored.get(part)
        if found is None or (found.dtype, found.shape) != (dtype, tuple(shape)):
            what = f"{found.dtype} {list(found.shape)}" if found is not None else "none"
            path = next((one.path for one in stored.values()), "the task's file")
            raise InputError(
                f"{path}: tensor {show(part)}: found {what}, expected {dtype} {list(shape)}; "
                "restore the file"
            )


def _refuse_other_count(values: TensorInfo, n_set: int) -> None:
    if values.n_elements != n_set:
        raise InputError(
            f"{values.path}: tensor {show(values.name)} has {values.n_elements} values, expected "
            f"{n_set}, as many as the mask has bits; restore the file"
        )


def _objection(
    core: Plan,
    job: int,
    name: str,
    pair: tuple[TensorInfo, TensorInfo],
    limits: Limits,
) -> str:
    for i, one in enumerate(pair):
        count, first = core.find_nonfinite(job, i, limits)
        if objection := nonfinite_objection(one, count, first):
            return objection
    return (
        f"{pair[1].path}: tensor {show(name)}: expert - base overflows F32; repair the model, or "
        "pass --nonfinite propagate"
    )


class SparseRun(PackRun):
    """One packing of sparse task vectors."""

    def write(self, directory: Path) -> Manifest:
        made = self._plan
        n_set = []
        for i, (_, _, file) in enumerate(made.masks):
            # What the task itself changed: its file does not depend on the others.
            sources = {name: made.sources(name) for name in made.masked}
            own = {
                name: one[0] for name, one in sources.items() if not same_tensor(one[0], one[1 + i])
            }
            packed = sparse_files.pack(
                own,
                {name: sources[name][1 + i] for name in own},
                directory / file,
                made.parameters,
                self._limits,
                refuse_nonfinite=self._stop,
                progress=self._advance if self._progress else None,
            )
            self.record.checksums[file] = packed.checksums
            self.record.file_bytes[file] = packed.n_bytes
            self.record.prints[0].update(packed.base)
            self.record.prints[1 + i].update(packed.expert)
            n_set.append(sum(packed.n_set.values()))
        self.record.note_unpacked()
        return self.record.manifest(n_set, [1.0] * len(made.masks))
