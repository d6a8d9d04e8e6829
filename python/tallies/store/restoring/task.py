"""One task of a store: its tensors restored from base and store, and checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..._core import Limits
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import TensorInfo
from ...engine.environment import in_float_environment
from ...engine.files import Place, PlanFiles
from ...engine.fingerprints import content, copy_out
from ...errors import InputError
from ...messages import unknown
from ..families.family import Family, Moved, StoredTask
from ..families.registry import family_of
from ..lambdas import text
from ..manifest import SHARED, Manifest
from .checks import Write, refuse_damaged


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

    def source(self, name: str) -> str:
        """Return the name whose values a tensor has: its own, or the one it is tied to."""
        return self.manifest.tensors[name].tied_to or name

    def is_coded(self, name: str) -> bool:
        """Return whether the family restores a tensor, which is not copied then."""
        source = self.source(name)
        return self.manifest.tensors[source].is_coded and source in self.files[self.file]

    def is_stored(self, name: str) -> bool:
        """Return whether the task's file has a tensor; a task may lack what others changed."""
        source = self.source(name)
        return self.manifest.tensors[source].is_stored and source in self.files[self.file]

    def copied(self, name: str) -> TensorInfo:
        """Return the tensor to copy, of the task's file or of the base."""
        source = self.source(name)
        return (self.files[self.file] if self.is_stored(name) else self.base.tensors)[source]

    def dtype(self, name: str) -> str:
        """Return the dtype of the restored tensor."""
        return (
            self.manifest.tensors[name].dtype
            if self.is_coded(name)
            else self.copied(name).decoded_dtype
        )

    def n_bytes_read(self) -> int:
        """Return the bytes of base and store that restoring all tensors reads."""
        n_bytes = sum(one.n_bytes for one in self.base.tensors.values())
        files = [self.file] + ([SHARED] if SHARED in self.files else [])
        return n_bytes + sum(one.n_bytes for file in files for one in self.files[file].values())

    @cached_property
    def family(self) -> Family:
        """The family that restores what the codec encodes."""
        return family_of(self.manifest.codec, self.manifest.parameters)

    @cached_property
    def stored_task(self) -> StoredTask:
        """The task as the family reads it."""
        return StoredTask(
            base=self.base.tensors,
            own=self.files[self.file],
            shared=self.files.get(SHARED, {}),
            scale=self.manifest.tasks[self.task].scale,
            check=self.check,
        )

    @in_float_environment
    def restore(
        self,
        files: PlanFiles,
        outputs: Mapping[str, Sequence[Place]],
        limits: Limits,
        progress: Moved | None = None,
    ) -> dict[str, list[int]]:
        """Restore the encoded tensors that ``outputs`` names, as ``Family.restore``."""
        return self.family.restore(self.stored_task, files, outputs, limits, progress)

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
