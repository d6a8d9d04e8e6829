"""Writes the tensors of a model from the files of the base and the loaded tensors of a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from .._core import Plan, restore
from ..checkpoint.tensors import TensorInfo
from ..engine.files import PlanFiles, native, place_code
from ..engine.fingerprints import content, copy_out
from ..engine.limits import tile_limits
from ..store.families.job import GRAIN
from ..store.opened import Store, writer_to
from ..store.restoring.checks import refuse_damaged
from ..store.restoring.task import Restoring
from . import staging
from .loading import BUFFER_BYTES, LoadedTensor, load_task

_STAGED_BYTES = 256 << 20


class FromFiles:
    """Reads the base at each switch, and the store at first or as each switch needs it.

    Args:
        store: The store.
        threads: The number of threads.
        preload: Read the whole store at first.
    """

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
        """Return the loaded tensors of a task.

        Raises:
            InputError: Something that was read is damaged.
            StorageError: Reading fails.
        """
        return self._loaded.get(one.file) or load_task(one, {}, self._threads)

    def write(
        self,
        tensors: Mapping[str, torch.Tensor],
        sources: Mapping[str, str],
        parts: Mapping[str, LoadedTensor],
    ) -> None:
        """Write tensors of a model; those that share their memory are written once.

        Tensors on a device are written in batches by way of host memory, and tensors with gaps one
        by one by way of a whole one.

        Args:
            tensors: Tensors of the model by name.
            sources: For each name, the tensor of the base and of the task whose values it gets.
            parts: The loaded tensors of the task.
        """
        infos = {name: self._store.base.tensors[sources[name]] for name in tensors}
        here, there = [], {}
        for name, tensor in distinct(tensors).items():
            if not tensor.is_contiguous():
                whole = torch.empty(tensor.shape, dtype=tensor.dtype)
                self._fill([(infos[name], whole)], parts)
                tensor.copy_(whole)
            elif staging.on_host(tensor):
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
        """Write tensors of host memory in one pass; InputError for a base that is damaged."""
        files = PlanFiles(Plan(True))
        store = self._store
        decoded = [one for one in outputs if one[0].is_decoded and one[0].name not in parts]
        for info, tensor in decoded:
            copy_out(info, writer_to(tensor.data_ptr()))
            refuse_damaged(store.path, store.manifest, store.base, info, content(info))
        outputs = [one for one in outputs if not one[0].is_decoded or one[0].name in parts]
        for info, tensor in outputs:
            base = native(files.operand(info))
            sources = parts[info.name].over(base) if info.name in parts else [base]
            to = (-1, tensor.data_ptr(), place_code(info.decoded_dtype))
            files.plan.add_job(info.n_elements, sources, [to], grain=GRAIN)
        found = restore(files.plan, tile_limits(BUFFER_BYTES, self._threads))
        for (info, _), result in zip(outputs, found, strict=True):
            refuse_damaged(store.path, store.manifest, store.base, info, result.inputs[0])


def distinct(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors that have elements, by their first name where several share memory."""
    by_address: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.nbytes:
            by_address.setdefault(tensor.data_ptr(), name)
    return {name: tensors[name] for name in by_address.values()}


def n_bytes_of(arrays: Iterator[torch.Tensor]) -> int:
    """Return the bytes of memory that tensors take; those that share it count once."""
    return sum(n_bytes for _, n_bytes in {(array.data_ptr(), array.nbytes) for array in arrays})


def all_of(store: Store) -> Iterator[Restoring]:
    """Yield every task of a store whose tensors are the base's, with each of its candidates."""
    for task, known in store.manifest.tasks.items():
        if known.forms or known.lacks:
            continue
        for mask_lambda in map(float, known.candidates) if known.file is None else [None]:
            yield store.restoring(task, mask_lambda)
