"""Opens a store over its base, and loads its tasks."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._core import Plan
from ..checkpoint.absent import no_model
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import TensorInfo
from ..engine.arrays import new_array
from ..engine.files import Place, PlanFiles, place_code
from ..engine.fingerprints import contents, tensor_fingerprint
from ..engine.limits import n_threads, tile_limits
from ..errors import InputError
from ..messages import counted, show, some
from ..recipe.adapters import with_base
from ..recipe.inputs import open_stored, open_whole
from ..recipe.places import Places
from ..spec.dtypes import fills_bytes, size_of
from .codecs import registry as codecs
from .manifest import Manifest, open_files
from .origins import base_place, relocate, root_of
from .restoring.checks import restored_names
from .restoring.report import UnpackReport
from .restoring.task import Restoring
from .restoring.unpack import unpack

_BUFFER_BYTES = 256 << 20


@dataclass(frozen=True, repr=False)
class Store:
    """Many experts of one base: ``Store.open(path).load("math")`` is one of them.

    Everything that is read is compared with its checksum: the methods raise InputError, which names
    the damaged file and tensor, and StorageError when reading fails.
    """

    path: Path
    base: Checkpoint
    manifest: Manifest
    files: Mapping[str, Mapping[str, TensorInfo]]
    """By file of the store, its tensors by name."""

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        base: str | os.PathLike[str] | None = None,
        tasks: Mapping[str, str | os.PathLike[str]] | None = None,
        *,
        check_base: bool = True,
    ) -> Store:
        """Open a store over its base.

        Args:
            path: The directory of the store.
            base: The base; by default, the checkpoint that the store was packed from.
            tasks: Places of experts that moved since, by the names of their tasks.
            check_base: Read the whole base and compare it, at the speed of the disk. Without, each
                tensor of the base is compared when it is used.

        Raises:
            InputError: The store is damaged or of a newer format, or the base is another one.
            StorageError: A file cannot be read.
        """
        root = root_of(path)
        manifest = Manifest.read(root)
        files = open_files(root, manifest)
        relocate(root, manifest, base, tasks or {})
        store = cls(root, _open_base(root, manifest, base), manifest, files)
        store._check_base(by_content=check_base)
        return store

    def __repr__(self) -> str:
        n_tasks = counted(len(self.tasks), "task")
        return f"<Store {str(self.path)!r}: {self.codec}, {n_tasks}: {some(self.tasks)}>"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(self.manifest.tasks)

    @property
    def codec(self) -> str:
        """Name of the codec."""
        return self.manifest.codec

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the codec."""
        return dict(self.manifest.parameters)

    @property
    def nbytes(self) -> int:
        """Bytes of the store's files, small ones included, without the base."""
        return sum((self.path / file).stat().st_size for file in self.manifest.files())

    def load(
        self,
        task: str,
        *,
        tensors: Iterable[str] | None = None,
        framework: str = "numpy",
        mask_lambda: float | None = None,
        threads: int | None = None,
    ) -> dict[str, Any]:
        """Restore the tensors of a task in memory.

        A masked tensor is base + scale * (mask ? shared : +0): the product and the sum are rounded
        in float32, the result once to the base's dtype.

        Args:
            task: The name of the task.
            tensors: The names of those to restore; by default, all. Nothing else is read.
            framework: "numpy" for arrays, "torch" for tensors.
            mask_lambda: The lambda of one of several candidates.
            threads: The number of threads; by default, all cores.

        Returns:
            Arrays or tensors by name; tied names share one.

        Raises:
            InputError: The store has no such task or candidate, or something that was read is
                damaged.
            StorageError: Reading fails.

        >>> Store.open("store").load("math")["head.weight"]  # doctest: +SKIP
        """
        names = self.restoring(task, mask_lambda).names
        if tensors is not None:
            names = restored_names(names, tensors)
        return self._load(task, names, framework, mask_lambda, threads)

    def tensor(
        self,
        task: str,
        name: str,
        *,
        framework: str = "numpy",
        mask_lambda: float | None = None,
    ) -> Any:
        """Restore one tensor of a task from what it needs alone; arguments as for ``load``."""
        known = self.restoring(task, mask_lambda).names
        names = restored_names(known, [name])
        return self._load(task, names, framework, mask_lambda, None)[name]

    def elements(
        self, task: str, name: str, start: int, stop: int, *, framework: str = "numpy"
    ) -> Any:
        """Restore elements ``start`` to ``stop`` of a tensor, in row-major order.

        Codec ``lossless`` reads the blocks that they are in and no others; other codecs restore
        whole tensors alone.

        Args:
            task: The name of the task.
            name: The name of the tensor.
            start: The first element.
            stop: The element behind the last.
            framework: "numpy" for an array, "torch" for a tensor.

        Returns:
            An array or tensor of one dimension.

        Raises:
            InputError: There is no such task, tensor or range, or what was read is damaged.
            StorageError: Reading fails.

        >>> Store.open("store").elements("math", "head.weight", 0, 4096)  # doctest: +SKIP
        """
        one = self.restoring(task)
        restored_names(one.names, [name])
        n_elements = math.prod(one.shape(name))
        if not 0 <= start <= stop <= n_elements:
            raise InputError(
                f"tensor {show(name)}: found elements {start} to {stop}, expected a range of the "
                f"{n_elements} that it has"
            )
        dtype = one.dtype(name)
        if not (fills_bytes(dtype, (start,)) and fills_bytes(dtype, (stop,))):
            raise InputError(
                f"tensor {show(name)}: elements {start} to {stop} of {dtype} begin or end within a "
                "byte; read a range of whole bytes"
            )
        array, address = new_array(name, dtype, (stop - start,), framework)
        if start < stop:
            room = (ctypes.c_char * size_of(dtype, (stop - start,))).from_address(address)
            one.restore_range(name, size_of(dtype, (start,)), memoryview(room).cast("B"))
        return array

    def unpack(self, task: str, out: str | os.PathLike[str], **options: Any) -> UnpackReport:
        """Write a task's checkpoint into the new directory ``out``; options as for ``unpack``.

        The lambda of one of several candidates is the option ``mask_lambda``.
        """
        return unpack(self.restoring(task, options.pop("mask_lambda", None)), out, **options)

    def restoring(self, task: str, mask_lambda: float | None = None) -> Restoring:
        """Return the task as it is restored; InputError if the store has no such task."""
        return Restoring.of(self.path, self.manifest, self.files, self.base, task, mask_lambda)

    def _load(
        self,
        task: str,
        names: Iterable[str],
        framework: str,
        mask_lambda: float | None,
        threads: int | None,
    ) -> dict[str, Any]:
        one = self.restoring(task, mask_lambda)
        arrays: dict[str, Any] = {}
        outputs: dict[str, list[Place]] = {}
        wanted = list(names)
        for name in dict.fromkeys(map(one.source, wanted)):
            dtype, shape = one.dtype(name), one.shape(name)
            arrays[name], address = new_array(name, dtype, shape, framework)
            if one.is_coded(name):
                outputs[name] = [(-1, address, place_code(dtype))]
            else:
                one.copy(name, writer_to(address))
        files = PlanFiles(Plan(True))
        one.restore(files, outputs, tile_limits(_BUFFER_BYTES, n_threads(threads)))
        return {name: arrays[one.source(name)] for name in wanted}

    def _check_base(self, *, by_content: bool) -> None:
        """Raise InputError unless the base is the one that the store was made from."""
        found, expected = self.base.tensors, self.manifest.tensors
        for name in sorted(found.keys() ^ expected.keys()):
            where = "lacks" if name in expected else "has"
            raise self._refuse_base(f"{where} tensor {show(name)}")
        for name, tensor in expected.items():
            dtype, shape = found[name].decoded_dtype, found[name].shape
            if (dtype, shape) != (tensor.dtype, tensor.shape):
                raise self._refuse_base(
                    f"tensor {show(name)} is {dtype} {list(shape)}, "
                    f"expected {tensor.dtype} {list(tensor.shape)}"
                )
        if not by_content:
            return
        infos = list(found.values())
        for info, lanes in zip(infos, contents(infos, n_threads(None)), strict=True):
            if tensor_fingerprint(info, lanes) != expected[info.name].fingerprint:
                raise self._refuse_base(f"tensor {show(info.name)} has other values")

    def _refuse_base(self, why: str) -> InputError:
        return InputError(
            f"{self.base.path}: is not the base of {self.path}: {why}; name the base that it was "
            f"packed from (fingerprint {self.manifest.base_fingerprint})"
        )


def _open_base(root: Path, manifest: Manifest, given: str | os.PathLike[str] | None) -> Checkpoint:
    """Open the base as the codec takes it; a model without tensors where there is none."""
    if not manifest.has_base:
        return no_model()
    text, variant = base_place(root, manifest, given), manifest.variant or ""
    if codecs.get(manifest.codec).of_stored:
        return open_stored(text, variant)
    return open_whole(with_base(text, Places.of()), variant)


def writer_to(address: int) -> Callable[[bytes, int], object]:
    """Return the function ``(data, at)`` that writes bytes of a tensor to memory."""
    return lambda chunk, at: ctypes.memmove(address + at, bytes(chunk), len(chunk))
