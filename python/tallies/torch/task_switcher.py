"""``TaskSwitcher``: one model in memory that becomes any task of a store, in place."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any, Literal

import torch

from .._core import fingerprint
from ..engine.arrays import new_array
from ..engine.fingerprints import tensor_fingerprint
from ..engine.limits import n_threads
from ..errors import InputError, TalliesError
from ..messages import show
from ..store.opened import Store
from ..store.restoring.task import Restoring
from . import staging
from .arguments import refuse_no_store
from .from_files import FromFiles
from .resident import Resident


class TaskSwitcher:
    """Rewrites the parameters and buffers of ``model`` with those of a store's tasks.

    ``activate(task)`` leaves in the model what ``store.load(task)`` returns, bit for bit;
    ``deactivate()`` leaves the base. Both write into the tensors that the model has: nothing is
    allocated anew, and optimizers, views and ``data_ptr()`` stay valid. All tensors of the state
    dict are written each time, so that what training changed in between is gone.

    With ``preload`` the store is read once and kept in memory, ``nbytes`` of it: the shared vector
    and the packed masks of all tasks, or what else its codec keeps. Without, each switch reads what
    it needs of the store, and keeps nothing. Either way the base's values, which the model's own
    replace, are read at each switch from the files of the base, which the system's page cache
    holds while memory is free, and which must stay where they are. All that is read is compared
    with its checksum. With ``preload="device"`` masks and shared vector are kept where the
    model's tensors are, and a copy of the base beside them, so that a switch reads no file and
    moves nothing between host and device; the codecs ``tall``, ``emr`` and ``magnitude`` have that.

    The model must hold the base at first, bit for bit, in dense contiguous tensors on the CPU or on
    CUDA devices, of the names, shapes and dtypes of the store. Names that share their memory in the
    model must be tied in the store, or be missing from it but for one. InputError names the tensor
    for which that does not hold; it is looked at again before each switch, and nothing was written
    then.

    For tensors on a device a task is made in host memory and copied there, while the next ones are
    made, unless ``preload="device"``. A switch waits until the devices have done what was queued
    before, and returns when they have the task. None of that has been run on a device yet.

    A thread that computes with the model holds ``using(task)`` meanwhile: switches of other threads
    wait until it is left, and so do their ``using``. One that does not may see two tasks mixed.

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
        tensors = self._tensors()
        self._refuse_other_values(tensors)
        self._source: FromFiles | Resident
        if preload == "device":
            self._source = Resident(store, tensors, n_threads(threads))
        else:
            self._source = FromFiles(store, n_threads(threads), preload=preload)

    @property
    def nbytes(self) -> int:
        """Bytes that are kept of the store and, with ``preload="device"``, of the base."""
        return self._source.nbytes

    @property
    def active(self) -> str | None:
        """The task that the model is, None for the base; waits for a switch that is under way.

        InputError if neither a switch nor the return to the base after it could be completed.
        """
        with self._lock:
            self._refuse_torn()
            return self._active

    def activate(self, task: str, *, mask_lambda: float | None = None) -> None:
        """Make the model this task; ``mask_lambda`` names one of several candidates.

        When reading the store fails, or finds damage, the model stays what it was; when reading the
        base does, it is the base again, if that can be read now. InputError for an unknown task,
        for damage, for a tensor whose dtype the task changes, and inside ``using`` of another task;
        StorageError when reading fails.
        """
        with self._lock:
            self._refuse_while_used(task, mask_lambda)
            one = self._store.restoring(task, mask_lambda)
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
        """Make the model the base again, bit for bit; also after a switch that failed.

        InputError for a base whose file has changed and inside ``using`` of a task; StorageError
        when reading fails.
        """
        with self._lock:
            self._refuse_while_used(None, None)
            self._restore_base(self._tensors())

    @contextmanager
    def using(
        self, task: str | None, *, mask_lambda: float | None = None
    ) -> Iterator[torch.nn.Module]:
        """The model as this task, or as the base for None, until the block is left.

        Switches only if another one is active, and leaves it active. Other threads that want the
        model wait; a thread may hold several blocks of one task, and InputError refuses another
        one inside.
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
        """The model's tensors by the store's names; InputError unless they can be written."""
        known = self._store.manifest.tensors
        own = _own_tensors(self._model)
        for name, tensor in known.items():
            if name not in own:
                raise InputError(
                    f"model: lacks tensor {show(name)}, which {self._store.path} has; build the "
                    "model that the base was saved from"
                )
            dtype = tensor.dtype if one is None else one.dtype(name)
            _refuse_unwritable(name, own[name], dtype, tensor.shape)
        self._refuse_untied(own)
        return {name: own[name] for name in known}

    def _refuse_untied(self, own: dict[str, torch.Tensor]) -> None:
        """InputError for names without values in the store, and for memory with two owners."""
        known = self._store.manifest.tensors
        spans = sorted(
            (own[name].data_ptr(), own[name].nbytes, tensor.tied_to or name, name)
            for name, tensor in known.items()
            if own[name].nbytes
        )
        for (start, n_bytes, owner, before), (address, _, source, name) in pairwise(spans):
            if address < start + n_bytes and (address, source) != (start, owner):
                raise InputError(
                    f"model: tensors {show(before)} and {show(name)} share memory, and "
                    f"{self._store.path} has values for each; untie them in the model, or pack "
                    "from a base that ties them"
                )
        written = {(address, n_bytes) for address, n_bytes, *_ in spans}
        for name in own.keys() - known.keys():
            if (own[name].data_ptr(), own[name].nbytes) not in written:
                raise InputError(
                    f"model: has tensor {show(name)}, which {self._store.path} lacks; build the "
                    "model that the base was saved from"
                )

    def _refuse_other_values(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            known = self._store.manifest.tensors[name]
            here = tensor.detach().cpu()
            lanes = fingerprint(here.data_ptr(), here.nbytes, 0)
            if tensor_fingerprint(known, lanes) != known.fingerprint:
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


def _own_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by the names of the state dict, the very objects."""
    own: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    own |= dict(model.named_buffers(remove_duplicate=False))
    names = list(model.state_dict())
    for name in names:
        if name not in own:
            raise InputError(
                f"model: its state dict has {show(name)}, which is no parameter or buffer of it; "
                "expected the names of its parameters and buffers; remove the hook"
            )
    return {name: own[name] for name in names}


def _refuse_unwritable(name: str, tensor: torch.Tensor, dtype: str, shape: tuple[int, ...]) -> None:
    if tensor.device.type not in ("cpu", "cuda"):
        raise InputError(
            f"model: tensor {show(name)} is on device {tensor.device}, expected the CPU or a CUDA "
            "device; move the model to the CPU"
        )
    like: torch.Tensor = new_array(name, dtype, (0,), "torch")[0]
    if tensor.dtype != like.dtype or tuple(tensor.shape) != shape:
        raise InputError(
            f"model: tensor {show(name)} is {tensor.dtype} {list(tensor.shape)}, expected "
            f"{like.dtype} {list(shape)} as in the store; convert the model"
        )
    if tensor.layout != torch.strided or not tensor.is_contiguous():
        raise InputError(
            f"model: tensor {show(name)} is not contiguous in memory; replace it by its "
            "contiguous()"
        )
