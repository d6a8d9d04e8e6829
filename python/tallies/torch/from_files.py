"""Tensors of a model, written from the files of a base and what a store keeps of a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from .._core import Plan, restore
from ..checkpoint.safetensors import TensorInfo
from ..engine.files import PlanFiles
from ..engine.limits import tile_limits
from ..store.opened import Store
from ..store.restoring.checks import refuse_damaged
from ..store.restoring.task import Restoring
from . import staging
from .loading import BUFFERS, GRAIN, LoadedTensor, load_task

_STAGED_BYTES = 256 << 20


class FromFiles:
    """Reads the base at each switch; of the store all at first, or what a switch needs."""

    def __init__(self, store: Store, threads: int, *, preload: bool) -> None:
        self._store = store
        self._threads = threads
        self._loaded: dict[str, Mapping[str, LoadedTensor]] = {}
        if preload:
            shared: dict[str, torch.Tensor] = {}
            for one in all_of(store):
                self._loaded[one.file] = load_task(one, shared, threads)

    @property
    def nbytes(self) -> int:
        """Bytes of the store that are kept in memory."""
        return n_bytes_of(
            array
            for loaded in self._loaded.values()
            for part in loaded.values()
            for array in part.memory
        )

    def parts(self, one: Restoring) -> Mapping[str, LoadedTensor]:
        """What a task has of its own. InputError for damage, StorageError when reading fails."""
        return self._loaded.get(one.file) or load_task(one, {}, self._threads)

    def write(
        self,
        tensors: Mapping[str, torch.Tensor],
        sources: Mapping[str, str],
        parts: Mapping[str, LoadedTensor],
    ) -> None:
        """Make each tensor of its source in the base and the parts, which are those of a task.

        What shares its memory is written once. On a device, in batches by way of the host.
        """
        infos = {name: self._store.base.tensors[sources[name]] for name in tensors}
        here, there = [], {}
        for name, tensor in distinct(tensors).items():
            if staging.on_host(tensor):
                here.append((infos[name], tensor))
            else:
                there[tensor.data_ptr()] = infos[name], tensor
        self._fill(here, parts)
        staged = staging.staged([tensor for _, tensor in there.values()], _STAGED_BYTES)
        for places in staged:
            self._fill([(there[tensor.data_ptr()][0], place) for tensor, place in places], parts)

    def _fill(
        self, outputs: Sequence[tuple[TensorInfo, torch.Tensor]], parts: Mapping[str, LoadedTensor]
    ) -> None:
        """One pass for tensors of host memory; InputError for a base that is damaged."""
        files = PlanFiles(Plan(True))
        for info, tensor in outputs:
            place = files.place(info)
            delta = [parts[info.name].delta] if info.name in parts else []
            to = (-1, tensor.data_ptr(), place[2])
            files.plan.add_job(info.n_elements, [place, *delta], [to], grain=GRAIN)
        found = restore(files.plan, tile_limits(BUFFERS, self._threads))
        store = self._store
        for (info, _), result in zip(outputs, found, strict=True):
            refuse_damaged(store.path, store.manifest, store.base, info, result.inputs[0])


def distinct(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors that have elements, those of one memory once, by the first of their names."""
    by_address: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.nbytes:
            by_address.setdefault(tensor.data_ptr(), name)
    return {name: tensors[name] for name in by_address.values()}


def n_bytes_of(arrays: Iterator[torch.Tensor]) -> int:
    """Bytes of memory, what is named twice once."""
    return sum(n_bytes for _, n_bytes in {(array.data_ptr(), array.nbytes) for array in arrays})


def all_of(store: Store) -> Iterator[Restoring]:
    """Every task of a store, with each of its candidates."""
    for task, known in store.manifest.tasks.items():
        for mask_lambda in map(float, known.candidates) if known.file is None else [None]:
            yield store.restoring(task, mask_lambda)
