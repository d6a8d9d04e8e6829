"""Switches one model in memory between the tasks of a store, in place."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import torch

from .._core import fingerprint
from ..checkpoint.buffers import is_buffer
from ..engine.fingerprints import copy_out, tensor_fingerprint
from ..engine.limits import n_threads
from ..errors import InputError, TalliesError
from ..messages import show
from ..store.manifest import Tensor
from ..store.opened import Store
from ..store.restoring.task import Restoring
from . import staging
from .arguments import refuse_no_store
from .from_files import FromFiles
from .model_tensors import StoreNames, refuse_unwritable
from .resident import Resident

Tensors: TypeAlias = Mapping[str, torch.Tensor]


class TaskSwitcher:
    """Rewrites the parameters and buffers of ``model`` with those of a store's tasks.

    ``activate(task)`` gives the model the values that ``store.load(task)`` returns, bit for bit;
    ``deactivate()`` gives it those of the base. Both write into the model's own tensors, so that
    optimizers, views and ``data_ptr()`` stay valid. Every switch writes all tensors of the state
    dict, so that changes by training in between are lost.

    The base's values are read at each switch from the files of the base, which must stay where they
    are; the system's page cache holds them while memory is free. Everything that is read is
    compared with its checksum.

    The model must hold the base at first, bit for bit, in dense contiguous tensors on the CPU or on
    CUDA devices, of the names, shapes and dtypes of the store. Names that share memory in the model
    must be tied in the store, or all but one of them missing from it. Tensors are checked again
    before each switch writes anything. Store and model may differ in buffers that come and go with
    versions of a library, such as ``position_ids``; those that only one has are left alone.

    A model of transformers may hold its tensors in other names and pieces than its files, as
    version 5 does with the experts of mixtures: they are found the way transformers saves them.

    A task for tensors on a device is restored in host memory and copied, while the next tensors are
    restored. A switch waits until the devices have done what was queued before, and returns when
    they have the task. None of that has been run on a device yet.

    A thread that computes with the model does so inside ``using(task)``: switches and ``using`` of
    other threads wait until that block is left. A thread outside such a block may see two tasks
    mixed.

    Args:
        model: The model, which holds the base.
        store: The open store.
        preload: True reads the store once and keeps ``nbytes`` of it in memory: the shared vector
            and the packed masks of all tasks, or the encoding of another codec. False reads at each
            switch what the switch needs. "device" keeps masks, shared vector and a copy of the base
            where the model's tensors are, so that a switch reads no file and moves nothing between
            host and device; the codecs tall, emr, magnitude and lora have that.
        threads: The number of threads; by default, all cores.

    Raises:
        InputError: The model does not fit the store or does not hold the base, or something that
            was read is damaged; the message names the tensor.
        StorageError: Reading fails.

    >>> switcher = TaskSwitcher(model, Store.open("store"))  # doctest: +SKIP
    >>> with switcher.using("math") as math:  # doctest: +SKIP
    ...     logits = math(batch)
    """

    def __init__(
        self,
        model: torch.nn.Module,
        store: Store,
        *,
        preload: bool | Literal["device"] = True,
        threads: int | None = None,
    ) -> None:
        refuse_no_store(store)
        self._model = model
        self._store = store
        self._lock = threading.RLock()
        self._n_users = 0
        self._active: str | None = None
        self._mask_lambda: float | None = None
        self._is_whole = True
        if preload not in (True, False, "device"):
            raise InputError(f"preload: found {preload!r}, expected True, False or 'device'")
        self._names = StoreNames(store)
        tensors = self._tensors()
        self._refuse_other_values(tensors)
        self._source: FromFiles | Resident
        if preload == "device":
            self._source = Resident(store, tensors, n_threads(threads))
        else:
            self._source = FromFiles(store, n_threads(threads), preload=preload)

    @property
    def nbytes(self) -> int:
        """Bytes kept of the store and, with ``preload="device"``, of the base."""
        return self._source.nbytes

    @property
    def active(self) -> str | None:
        """The model's task, or None for the base; waits for a switch that is under way.

        Raises:
            InputError: Neither a switch nor the return to the base after it could be completed.
        """
        with self._lock:
            self._refuse_torn()
            return self._active

    def activate(self, task: str, *, mask_lambda: float | None = None) -> None:
        """Switch the model to a task.

        A failure to read the store leaves the model as it was. A failure to read the base makes the
        model the base again, if the base can be read then.

        Args:
            task: The name of the task.
            mask_lambda: The lambda of one of several candidates.

        Raises:
            InputError: The task is unknown, something is damaged, the task changes a tensor's
                dtype, or the call is inside ``using`` of another task.
            StorageError: Reading fails.
        """
        with self._lock:
            self._refuse_while_used(task, mask_lambda)
            one = self._store.restoring(task, mask_lambda)
            one.refuse_other_tensors()
            tensors = self._tensors(one)
            parts = self._source.parts(one)
            sources = {name: one.source(name) for name in tensors}
            try:
                self._is_whole = False
                self._write(tensors, sources, parts)
            except BaseException:
                with suppress(TalliesError):
                    self._restore_base(self._tensors())
                raise
            self._active, self._mask_lambda, self._is_whole = task, mask_lambda, True

    def deactivate(self) -> None:
        """Switch the model back to the base, bit for bit; also after a switch that failed.

        Raises:
            InputError: The base has changed, or the call is inside ``using`` of a task.
            StorageError: Reading fails.
        """
        with self._lock:
            self._refuse_while_used(None, None)
            self._restore_base(self._tensors())

    @contextmanager
    def using(
        self, task: str | None, *, mask_lambda: float | None = None
    ) -> Iterator[torch.nn.Module]:
        """Yield the model as a task, or as the base for None, until the block is left.

        The model is switched if another task is active, and stays with the task afterwards. Other
        threads that want the model wait. A thread may nest blocks of one task.

        Args:
            task: The name of the task, or None.
            mask_lambda: The lambda of one of several candidates.

        Yields:
            The model.

        Raises:
            InputError: The block is inside one of another task; or as for ``activate``.
            StorageError: Reading fails.
        """
        with self._lock:
            if not self._is_whole or (task, mask_lambda) != (self._active, self._mask_lambda):
                if task is None:
                    self.deactivate()
                else:
                    self.activate(task, mask_lambda=mask_lambda)
            self._n_users += 1
            try:
                yield self._model
            finally:
                self._n_users -= 1

    def _restore_base(self, tensors: dict[str, torch.Tensor]) -> None:
        self._is_whole = False
        self._write(tensors, {name: name for name in tensors}, {})
        self._active, self._mask_lambda, self._is_whole = None, None, True

    def _write(
        self,
        tensors: Mapping[str, torch.Tensor],
        sources: Mapping[str, str],
        parts: Mapping[str, Any],
    ) -> None:
        """Write all tensors; on devices, between what was queued there before and comes after."""
        staging.wait_for(tensors.values())
        try:
            with torch.inference_mode():
                self._source.write(tensors, sources, parts)
        finally:
            staging.wait_for(tensors.values())
            # A backward pass over the values that were there before fails, as after any write.
            torch.autograd.graph.increment_version(tensors.values())

    def _tensors(self, one: Restoring | None = None) -> dict[str, torch.Tensor]:
        """Return the model's tensors by the store's names; InputError if one cannot be written."""
        own = self._names.of(self._model)
        known = {
            name: tensor for name, tensor in self._store.manifest.tensors.items() if name in own
        }
        for name, tensor in known.items():
            dtype = tensor.dtype if one is None else one.dtype(name)
            is_piece = self._names.are_pieces
            refuse_unwritable(name, own[name], dtype, tensor.shape, is_piece=is_piece)
        self._refuse_untied(own, known)
        return {name: own[name] for name in known}

    def _refuse_untied(self, own: Tensors, known: Mapping[str, Tensor]) -> None:
        """Raise InputError for names without values in the store, or memory with two owners."""
        spans = sorted(
            (own[name].data_ptr(), own[name].nbytes, tensor.tied_to or name, name)
            for name, tensor in known.items()
            if own[name].nbytes and own[name].is_contiguous()
        )
        for (start, n_bytes, owner, before), (address, _, source, name) in pairwise(spans):
            if address < start + n_bytes and (address, source) != (start, owner):
                raise InputError(
                    f"model: tensors {show(before)} and {show(name)} share memory, and "
                    f"{self._store.path} has values for each; untie them in the model, or pack "
                    "from a base that ties them"
                )
        written = {(own[name].data_ptr(), own[name].nbytes) for name in known}
        for name in own.keys() - known.keys():
            is_written = (own[name].data_ptr(), own[name].nbytes) in written
            if not is_written and not is_buffer(name, own[name].shape):
                raise InputError(
                    f"model: has tensor {show(name)}, which {self._store.path} lacks; build the "
                    "model that the base was saved from"
                )

    def _refuse_other_values(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            known = self._store.manifest.tensors[name]
            here = tensor.detach().cpu().contiguous()
            lanes = fingerprint(here.data_ptr(), here.nbytes, 0)
            info = self._store.base.tensors[name]
            if not info.is_decoded:
                is_same = tensor_fingerprint(known, lanes) == known.fingerprint
            else:  # the checksum of a decoded tensor is that of its stored bytes
                is_same = copy_out(info, lambda data, at: None) == lanes
            if not is_same:
                raise InputError(
                    f"model: tensor {show(name)} has other values than the base "
                    f"{self._store.base.path}; load the base into the model first"
                )

    def _refuse_while_used(self, task: str | None, mask_lambda: float | None) -> None:
        if self._n_users and (task, mask_lambda) != (self._active, self._mask_lambda):
            raise InputError(
                f"task {show(task)}: found inside using({show(self._active)}), expected the same "
                "task; leave that block first"
            )

    def _refuse_torn(self) -> None:
        if not self._is_whole:
            raise InputError(
                "model: is no task, because a switch failed half-way and the base could not be "
                "read; repair the files, then call deactivate() or activate()"
            )
