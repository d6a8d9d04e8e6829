"""What a store keeps of a task, read into memory and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .._core import Plan, Source, restore
from ..checkpoint.safetensors import TensorInfo
from ..engine.arrays import new_array
from ..engine.codes import PACKED_BITS
from ..engine.files import PlanFiles
from ..engine.limits import tile_limits
from ..spec.dtypes import CODES_BY_SIZE, DTYPE_CODES, DTYPES
from ..store.codecs import registry as codecs
from ..store.codecs.sparse import Sparse
from ..store.families import sparse as sparse_files
from ..store.families.masked import GRAIN, scale_name
from ..store.manifest import SHARED, STORED
from ..store.restoring.task import Restoring

BUFFERS = "256MiB"

_BYTE = DTYPE_CODES["F8_E4M3"]  # any type of one byte


@dataclass(frozen=True)
class Held:
    """What makes one tensor of a task from the base's."""

    native: Source
    memory: tuple[torch.Tensor, ...]
    """What ``native`` points to."""
    replaces: bool
    """Whether the values take the place of the base's, bit for bit, and are not added to them."""
    scale: float | None = None
    """For a mask and the shared vector, the factor of what is in the mask."""


def hold(one: Restoring, shared: dict[str, torch.Tensor], threads: int) -> dict[str, Held]:
    """By name, each tensor that the task has in the store; tied ones once.

    ``shared`` has the shared vectors that are in memory already, and gets those that are not.
    InputError for what is damaged; StorageError when reading fails.
    """
    kept = [name for name in one.manifest.of_kind(*STORED) if one.kind(name) in STORED]
    factored = [name for name in kept if one.kind(name) == "factored"]
    names = [name for name in kept if name not in factored]
    parts = {name: _parts(one, name) for name in names}
    new = [
        one.files[SHARED][name]
        for name in names
        if SHARED in one.files and one.kind(name) == "masked" and name not in shared
    ]
    wanted = [*new, *(part for row in parts.values() for part in row)]
    arrays = iter(read(one, wanted, threads))
    for info in new:
        shared[info.name] = next(arrays)
    held = {
        name: _held(one, name, row, [next(arrays) for _ in row], shared)
        for name, row in parts.items()
    }
    return held | _multiplied(one, factored, threads)


def _multiplied(one: Restoring, names: Sequence[str], threads: int) -> dict[str, Held]:
    """Tensors that are kept as factors, multiplied out: as large as the base's."""
    arrays, places = {}, {}
    for name in names:
        base = one.base.tensors[name]
        arrays[name], address = new_array(name, one.dtype(name), base.shape, "torch")
        places[name] = [(-1, address, DTYPE_CODES[one.dtype(name)])]
    one.make(Plan(True), places, tile_limits(BUFFERS, threads))
    held = {}
    for name, array in arrays.items():
        code = CODES_BY_SIZE[DTYPES[one.dtype(name)]]
        native = Source.plain(values=(-1, array.data_ptr(), code), replaces=True)
        held[name] = Held(native, (array,), True)
    return held


def read(one: Restoring, infos: Sequence[TensorInfo], threads: int) -> list[torch.Tensor]:
    """Tensors of store or base, compared with their checksums."""
    core = Plan(True)
    inputs = PlanFiles(core)
    arrays = []
    for info in infos:
        array, address = new_array(info.name, info.dtype, info.shape, "torch")
        arrays.append(array)
        core.add_job(info.n_bytes, [inputs.bytes_place(info)], [(-1, address, _BYTE)], grain=GRAIN)
    found = restore(core, tile_limits(BUFFERS, threads))
    for info, result in zip(infos, found, strict=True):
        one.check(info, result.inputs[0])
    return arrays


def _parts(one: Restoring, name: str) -> list[TensorInfo]:
    """Where the task's own part of a tensor lies."""
    stored = one.files[one.file]
    if one.kind(name) == "masked" and codecs.get(one.manifest.codec) is Sparse:
        return sparse_files.parts(name, stored, one.manifest.parameters)
    if one.kind(name) == "masked" and SHARED not in one.files:
        return [stored[name], stored[scale_name(name)]]
    return [stored[name]]


def _held(
    one: Restoring,
    name: str,
    parts: Sequence[TensorInfo],
    memory: Sequence[torch.Tensor],
    shared: dict[str, torch.Tensor],
) -> Held:
    base = one.base.tensors[name]
    addresses = [array.data_ptr() for array in memory]
    if one.kind(name) != "masked":
        code = CODES_BY_SIZE[DTYPES[parts[0].dtype]]
        native = Source.plain(values=(-1, addresses[0], code), replaces=True)
        return Held(native, tuple(memory), True)
    if codecs.get(one.manifest.codec) is Sparse:
        native = sparse_files.in_memory(base, parts, addresses, one.manifest.parameters)
        return Held(native, tuple(memory), Sparse.is_exact(one.manifest.parameters))
    mask = (-1, addresses[0], PACKED_BITS)
    if SHARED not in one.files:
        return Held(Source.signs(mask=mask, scale=float(memory[1])), (memory[0],), False)
    vector = shared[name]
    code = DTYPE_CODES[one.files[SHARED][name].dtype]
    scale = one.manifest.tasks[one.task].scale
    native = Source.masked(values=(-1, vector.data_ptr(), code), mask=mask, scale=scale)
    return Held(native, (*memory, vector), False, scale)
