"""``TaskSwitcher``: one model in memory that becomes any task of a store, in place."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise

import torch

from .. import _core
from ..errors import InputError, TalliesError
from ..files import tensor_fingerprint
from ..headers import DTYPES
from ..native import DTYPE_CODES
from ..resources import tile_limits
from ..state_dicts import n_threads
from ..store.arrays import new_array
from ..store.pack_plan import GRAIN
from ..store.reading import Store
from ..store.restoring import Restoring, refuse_damaged
from ..store.sparse_files import CODES_BY_SIZE
from ..suggest import show
from .held import BUFFERS, Held, hold


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
    with its checksum.

    The model must hold the base at first, bit for bit, in dense contiguous tensors on the CPU (on a
    device this build does not switch), of the names, shapes and dtypes of the store. Names that
    share their memory in the model must be tied in the store, or be missing from it but for one.
    InputError names the tensor for which that does not hold; it is looked at again before each
    switch, and nothing was written then.

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
        preload: bool = True,
        threads: int | None = None,
    ) -> None:
        self._model = model
        self._store = store
        self._threads = n_threads(threads)
        self._lock = threading.RLock()
        self._n_users = 0
        self._active: str | None = None
        self._mask_lambda: float | None = None
        self._is_whole = True
        self._refuse_other_values(self._tensors())
        self._held: dict[str, Mapping[str, Held]] = {}
        if preload:
            shared: dict[str, torch.Tensor] = {}
            for one in _all_of(store):
                self._held[one.file] = hold(one, shared, self._threads)

    @property
    def nbytes(self) -> int:
        """Bytes of the store that are kept in memory."""
        kept = {
            (array.data_ptr(), array.nbytes)
            for held in self._held.values()
            for part in held.values()
            for array in part.memory
        }
        return sum(n_bytes for _, n_bytes in kept)

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
            held = self._held.get(one.file) or hold(one, {}, self._threads)
            sources = {name: one.source(name) for name in tensors}
            try:
                self._is_whole = False
                self._write(tensors, sources, held)
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
        held: Mapping[str, Held],
    ) -> None:
        """Make each tensor of its source in the base and what is held of that, one pass for all."""
        base = self._store.base.tensors
        core = _core.Plan(True)
        files: dict[str, int] = {}
        written = {}
        deltas = []
        for name, tensor in tensors.items():
            if not tensor.nbytes or tensor.data_ptr() in written:
                continue
            info = written[tensor.data_ptr()] = base[sources[name]]
            path = os.fspath(info.path)
            if path not in files:
                files[path] = core.open_to_read(path)
            code = DTYPE_CODES.get(info.dtype, CODES_BY_SIZE[DTYPES[info.dtype]])
            core.add_job(
                info.n_elements,
                [(files[path], info.offset, code)],
                [(-1, tensor.data_ptr(), code)],
                grain=GRAIN,
            )
            part = held.get(info.name)
            deltas.append(None if part is None else part.native)
        try:
            found = _core.restore(core, deltas, tile_limits(BUFFERS, self._threads))
        finally:
            # A backward pass over the values that were there before fails, as after any write.
            torch.autograd.graph.increment_version(tensors.values())
        for info, lanes in zip(written.values(), found, strict=True):
            refuse_damaged(self._store.path, self._store.manifest, self._store.base, info, lanes)

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
            lanes = _core.fingerprint(tensor.data_ptr(), tensor.nbytes, 0)
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


def _all_of(store: Store) -> Iterator[Restoring]:
    """Every task of a store, with each of its candidates."""
    for task, known in store.manifest.tasks.items():
        for mask_lambda in map(float, known.candidates) if known.file is None else [None]:
            yield store.restoring(task, mask_lambda)


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
    if tensor.device.type != "cpu":
        raise InputError(
            f"model: tensor {show(name)} is on device {tensor.device}, for which this build has no "
            "kernels yet; move the model to the CPU"
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
