"""Reads the tensors that a store encodes of a task into memory, and checks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

import torch

from .._core import Change, Plan, Source, restore
from ..checkpoint.tensors import TensorInfo
from ..engine.arrays import new_array
from ..engine.files import Place, PlanFiles, bits_code, place_code
from ..engine.fingerprints import content, copy_out
from ..engine.limits import tile_limits
from ..store.families.job import GRAIN
from ..store.opened import writer_to
from ..store.restoring.task import Restoring

BUFFER_BYTES: Final = 256 << 20

Check = Callable[[TensorInfo, Sequence[int]], object]


@dataclass(frozen=True)
class LoadedTensor:
    """One tensor of a task in memory, and the native source that makes it from the base's."""

    delta: Source
    memory: tuple[torch.Tensor, ...]
    """The tensors that ``delta`` points to."""
    replaces: bool
    """True if decoded values replace the base's, bit for bit; otherwise they are added."""
    mask_scale: float | None = None
    """For a mask and the shared vector, in this order: the factor where the mask is set."""
    changes: tuple[Change, ...] = ()
    """Changes of the base's values, instead of ``delta``."""
    products: tuple[tuple[int, int, float], ...] = ()
    """The same, if all are products: numbers of their factors in ``memory``, and the scale."""

    def over(self, base: Place | Source) -> list[Place | Source]:
        """Return the sources that make the tensor, from that of the base."""
        if self.changes:
            return [Source.changed(source=base, changes=self.changes)]
        return [base, self.delta]


def load_task(
    one: Restoring, shared: dict[str, torch.Tensor], threads: int
) -> dict[str, LoadedTensor]:
    """Read every tensor that the store has of a task, tied ones once.

    Tensors that cannot be decoded from memory are restored, and take as much as the base's.

    Args:
        one: The task.
        shared: Shared vectors in memory by name; those that are read now are added.
        threads: The number of threads.

    Returns:
        Tensors by name.

    Raises:
        InputError: Something that was read is not what was packed.
        StorageError: Reading fails.
    """
    parts = {}
    names = [name for name in one.manifest.stored if one.is_stored(name)]
    for name in names:
        found = one.in_memory(name)
        if found is not None:
            parts[name] = found
    wanted = dict.fromkeys(
        part
        for row in parts.values()
        for part in row
        if not (_is_shared(one, part) and part.name in shared)
    )
    arrays = dict(zip(wanted, read(one, list(wanted), threads), strict=True))
    shared.update({part.name: array for part, array in arrays.items() if _is_shared(one, part)})
    loaded = {
        name: _loaded(
            one,
            name,
            [shared[part.name] if _is_shared(one, part) else arrays[part] for part in row],
        )
        for name, row in parts.items()
    }
    return loaded | restored(one, [name for name in names if name not in parts], threads)


def read(one: Restoring, infos: Sequence[TensorInfo], threads: int) -> list[torch.Tensor]:
    """Read tensors of store or base, and compare them with their checksums."""
    files = PlanFiles(Plan(True))
    arrays = []
    for info in infos:
        array, address = new_array(info.name, info.dtype, info.shape, "torch")
        arrays.append(array)
        place = files.bytes_place(info)
        files.plan.add_job(info.n_bytes, [place], [(-1, address, place[2])], grain=GRAIN)
    found = restore(files.plan, tile_limits(BUFFER_BYTES, threads))
    for info, result in zip(infos, found, strict=True):
        one.check(info, result.inputs[0])
    return arrays


def read_decoded(info: TensorInfo, check: Check, dtype: str | None = None) -> torch.Tensor:
    """Read the decoded values of a tensor of the base, which has a scale or changes.

    Args:
        info: The tensor.
        check: Compares the fingerprint of its stored bytes with that of the base that was packed.
        dtype: The dtype of the result; None for the tensor's decoded dtype.

    Raises:
        InputError: The stored values, scales or changes are not those that were packed.
        StorageError: Reading fails.
    """
    array, address = new_array(info.name, dtype or info.decoded_dtype, info.shape, "torch")
    copy_out(info, writer_to(address), dtype)
    check(info, content(info))
    return cast(torch.Tensor, array)


def _is_shared(one: Restoring, part: TensorInfo) -> bool:
    return one.stored_task.shared.get(part.name) is part


def _loaded(one: Restoring, name: str, memory: Sequence[torch.Tensor]) -> LoadedTensor:
    if not one.is_coded(name):
        return _replacing(one, name, memory[0])
    found = one.family.encoded(one.stored_task, name, [array.data_ptr() for array in memory])
    return LoadedTensor(
        found.delta,
        tuple(memory),
        found.replaces,
        found.mask_scale,
        found.changes,
        found.products,
    )


def _replacing(one: Restoring, name: str, values: torch.Tensor) -> LoadedTensor:
    place = (-1, values.data_ptr(), bits_code(one.dtype(name)))
    return LoadedTensor(Source.plain(values=place, replaces=True), (values,), True)


def restored(one: Restoring, names: Sequence[str], threads: int) -> dict[str, LoadedTensor]:
    """Restore tensors whole; the errors are those of ``load_task``."""
    arrays: dict[str, torch.Tensor] = {}
    outputs: dict[str, list[Place]] = {}
    for name in names:
        dtype = one.dtype(name)
        arrays[name], address = new_array(name, dtype, one.shape(name), "torch")
        outputs[name] = [(-1, address, place_code(dtype))]
    one.restore(PlanFiles(Plan(True)), outputs, tile_limits(BUFFER_BYTES, threads))
    return {name: _replacing(one, name, array) for name, array in arrays.items()}
