"""One task of a store: its tensors restored from base and store, and checked when they are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ..._core import Limits
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.layout import Entry
from ...checkpoint.tensors import TensorInfo
from ...engine.environment import in_float_environment
from ...engine.files import Place, PlanFiles
from ...engine.fingerprints import content, copy_out
from ...errors import InputError
from ...messages import show, unknown
from ..families.family import Family, Moved, StoredTask, refuse_other
from ..families.registry import family_of
from ..lambdas import text
from ..manifest import SHARED, Manifest
from ..sharing import with_borrowed
from ..tasks import Task
from .checks import Write, refuse_damaged, restored_names


@dataclass(frozen=True)
class Restoring:
    """One task of an open store over its base."""

    path: Path
    manifest: Manifest
    files: Mapping[str, Mapping[str, TensorInfo]]
    base: Checkpoint
    task: str
    file: str
    """The task's own file, relative to the store."""
    only: tuple[str, ...] | None = None
    """The tensors to restore, of those that there are; None for all."""

    @classmethod
    def of(
        cls,
        path: Path,
        manifest: Manifest,
        files: Mapping[str, Mapping[str, TensorInfo]],
        base: Checkpoint,
        task: str,
        mask_lambda: float | None,
    ) -> Restoring:
        """Find a task and, among its candidates, the one for a lambda.

        Raises:
            InputError: The store has no such task or candidate, or the candidate is not named.
        """
        if task not in manifest.tasks:
            raise InputError(f"{path}: task {unknown(task, manifest.tasks)}")
        found = manifest.tasks[task]
        if found.file is not None:
            if mask_lambda is not None and mask_lambda != found.mask_lambda:
                raise InputError(
                    f"{path}: task {task!r} has lambda {found.mask_lambda}, found {mask_lambda}; "
                    "leave it out, or pack several candidates"
                )
            return cls(path, manifest, files, base, task, found.file)
        if mask_lambda is None:
            raise InputError(
                f"{path}: task {task!r} has candidates for lambda {', '.join(found.candidates)}; "
                f"name one, or keep one with 'tallies choose {path} {task} LAMBDA'"
            )
        key = text(float(mask_lambda))
        if key not in found.candidates:
            raise InputError(f"{path}: task {task!r}: lambda {unknown(key, found.candidates)}")
        return cls(path, manifest, files, base, task, found.candidates[key])

    @cached_property
    def template(self) -> Checkpoint:
        """The model whose files' names and metadata a restored checkpoint takes over."""
        parts = self._stated.parts
        return self.base if self.manifest.has_base else replace(self.base, parts=parts)

    @property
    def _stated(self) -> Task:
        return self.manifest.tasks[self.task]

    @cached_property
    def own(self) -> Mapping[str, TensorInfo]:
        """The tensors of the task's file, and those of other files that it has alike."""
        return with_borrowed(self.files, self.file, self._stated.borrowed, self.family.parts)

    @cached_property
    def names(self) -> list[str]:
        """The tensors of the task, in the order of their names."""
        stated = self._stated
        known = {*self.manifest.tensors, *stated.forms} - {*stated.lacks}
        return sorted(known if self.only is None else restored_names(known, self.only))

    def of_tensors(self, names: Iterable[str]) -> Restoring:
        """Return the task with these tensors alone; InputError for one that it has not."""
        found = replace(self, only=tuple(dict.fromkeys(names)))
        if not found.names:
            raise InputError(f"{self.path}: task {self.task!r}: found no tensors to restore")
        return found

    def refuse_other_tensors(self) -> None:
        """Raise InputError if the task has tensors that the base has not in the same form."""
        other = [*self._stated.forms, *self._stated.lacks]
        if other:
            raise InputError(
                f"{self.path}: task {self.task!r} has other tensors than a base, such as "
                f"{show(other[0])}; expected those of the base: load or unpack the task instead"
            )

    def source(self, name: str) -> str:
        """Return the name whose values a tensor has: its own, or the one it is tied to."""
        if name in self._stated.forms:
            return name
        return self.manifest.tensors[name].tied_to or name

    def is_coded(self, name: str) -> bool:
        """Return whether the family restores a tensor, which is not copied then."""
        source = self.source(name)
        if source in self._stated.forms:
            return True
        return self.manifest.tensors[source].is_coded and source in self.own

    def is_stored(self, name: str) -> bool:
        """Return whether the task's file has a tensor; a task may lack what others changed."""
        source = self.source(name)
        return self.manifest.tensors[source].is_stored and source in self.own

    def copied(self, name: str) -> TensorInfo:
        """Return the tensor to copy, of the task's file or of the base."""
        source = self.source(name)
        if not self.is_stored(name):
            return self.base.tensors[source]
        found, shape = self.own[source], self.manifest.tensors[source].shape
        refuse_other(self.own, [(source, found.dtype, shape)])
        return found

    def dtype(self, name: str) -> str:
        """Return the dtype of the restored tensor."""
        if name in self._stated.forms:
            return self._stated.forms[name][0]
        return (
            self.manifest.tensors[name].dtype
            if self.is_coded(name)
            else self.copied(name).decoded_dtype
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the restored tensor."""
        if name in self._stated.forms:
            return self._stated.forms[name][1]
        return self.manifest.tensors[name].shape

    def entries(self) -> list[Entry]:
        """Return the tensors of the restored checkpoint."""
        return [(name, self.dtype(name), self.shape(name)) for name in self.names]

    def n_bytes_read(self) -> int:
        """Return the bytes of base and store that restoring all tensors reads."""
        rows = (self.base.tensors, self.own, self.files.get(SHARED, {}))
        found = [(name, one.n_bytes) for row in rows for name, one in row.items()]
        if self.only is not None:
            wanted = {*self.only, *map(self.source, self.only)}
            found = [
                (n, size) for n, size in found if n in wanted or n.rpartition("::")[0] in wanted
            ]
        return sum(size for _, size in found)

    @cached_property
    def family(self) -> Family:
        """The family that restores what the codec encodes."""
        return family_of(self.manifest.codec, self.manifest.parameters)

    @cached_property
    def stored_task(self) -> StoredTask:
        """The task as the family reads it."""
        return StoredTask(
            store=self.path,
            base=self.base.tensors,
            own=self.own,
            shared=self.files.get(SHARED, {}),
            scale=self._stated.scale,
            forms=self._stated.forms,
            check=self.check,
        )

    def in_memory(self, name: str) -> list[TensorInfo] | None:
        """Return the stored tensors from which a tensor is decoded; None if it is restored."""
        if not self.is_coded(name):
            return [self.copied(name)]
        self.family.refuse_other_entries(self.stored_task, name)
        return self.family.in_memory(self.stored_task, name)

    @in_float_environment
    def restore(
        self,
        files: PlanFiles,
        outputs: Mapping[str, Sequence[Place]],
        limits: Limits,
        progress: Moved | None = None,
    ) -> dict[str, list[int]]:
        """Restore the encoded tensors that ``outputs`` names, as ``Family.restore``."""
        for name in outputs:
            self.family.refuse_other_entries(self.stored_task, name)
        return self.family.restore(self.stored_task, files, outputs, limits, progress)

    def restore_range(self, name: str, first: int, out: memoryview) -> None:
        """Restore bytes of a tensor from byte ``first`` on, as ``Family.restore_range``.

        A tensor that is copied whole is read whole, and checked.
        """
        if self.is_coded(name):
            self.family.refuse_other_entries(self.stored_task, self.source(name))
            self.family.restore_range(self.stored_task, self.source(name), first, out)
            return

        def take(data: bytes, at: int) -> None:
            low, high = max(first, at), min(first + len(out), at + len(data))
            if low < high:
                out[low - first : high - first] = data[low - at : high - at]

        self.copy(name, take)

    def copy(self, name: str, write: Write) -> list[int]:
        """Hand over the bytes of a tensor that is copied, and check them.

        Returns:
            The content fingerprint.

        Raises:
            InputError: The tensor is not what was packed.
            StorageError: The tensor cannot be read.
        """
        one = self.copied(name)
        lanes = copy_out(one, write)
        # A decoded tensor's checksum is that of the stored bytes, scales and changes.
        self.check(one, content(one) if one.is_decoded else lanes)
        return lanes

    def check(self, one: TensorInfo, lanes: Sequence[int]) -> None:
        """Raise InputError unless a tensor that was read is what it was when the store was made."""
        refuse_damaged(self.path, self.manifest, self.base, one, lanes)
