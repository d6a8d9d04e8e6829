"""The tensors of one task, made from base and store, and checked while they are read."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..._core import Limits, Plan, Source, restore
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.data import chunks
from ...checkpoint.safetensors import TensorInfo
from ...engine.files import Place, PlanFiles
from ...engine.fingerprints import content, copy_out
from ...errors import InputError
from ...messages import unknown
from ..codecs import registry as codecs
from ..codecs._low_rank import LowRankCodec
from ..codecs.sparse import Sparse
from ..families import low_rank as low_rank_files
from ..families import sparse as sparse_files
from ..families.masked import GRAIN, scale_name
from ..lambdas import text
from ..manifest import SHARED, STORED, Manifest
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
        """Find the task and, among candidates, the one for this lambda; InputError if not there."""
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
        """The name whose values a tensor has: its own, or the one it is tied to."""
        return self.manifest.tensors[name].tied_to or name

    def kind(self, name: str) -> str:
        """Where the values of a tensor come from; the task may lack what others have changed."""
        kind = self.manifest.tensors[self.source(name)].kind
        return (
            "frozen" if kind in STORED and self.source(name) not in self.files[self.file] else kind
        )

    def is_made(self, name: str) -> bool:
        """Whether a tensor is computed, not copied."""
        return self.kind(name) in ("masked", "factored")

    def stored(self, name: str) -> TensorInfo:
        """Where the bytes of a tensor that is copied lie: in the task's file or in the base."""
        name = self.source(name)
        if self.kind(name) == "dense":
            return self.files[self.file][name]
        return self.base.tensors[name]

    def dtype(self, name: str) -> str:
        """The dtype that the restored tensor has."""
        return self.manifest.tensors[name].dtype if self.is_made(name) else self.stored(name).dtype

    def n_bytes_read(self) -> int:
        """Bytes of base and store that restoring all tensors reads."""
        n_bytes = sum(one.n_bytes for one in self.base.tensors.values())
        files = [self.file] + ([SHARED] if SHARED in self.files else [])
        return n_bytes + sum(one.n_bytes for file in files for one in self.files[file].values())

    def make(
        self,
        core: Plan,
        outputs: Mapping[str, Sequence[Place]],
        limits: Limits,
        progress: Callable[[int], object] | None = None,
    ) -> dict[str, list[int]]:
        """Make the masked tensors that ``outputs`` names and write each to its places.

        Returns the content fingerprint of each; InputError if anything read is not what was packed.
        """
        if codecs.get(self.manifest.codec) is Sparse:
            return self._make_sparse(core, outputs, limits, progress)
        if issubclass(codecs.get(self.manifest.codec), LowRankCodec):
            return self._make_of_factors(core, outputs, limits, progress)
        names = list(outputs)
        has_shared = (
            codecs.get(self.manifest.codec).shared_rule(self.manifest.parameters) is not None
        )
        scale = self.manifest.tasks[self.task].scale
        inputs = {name: self._inputs(name, has_shared) for name in names}
        opened = PlanFiles(core)
        for name in names:
            *floats, packed = inputs[name]
            base, *shared = [opened.place(one) for one in floats]
            mask = opened.mask_place(packed)
            delta = (
                Source.masked(values=shared[0], mask=mask, scale=scale)
                if has_shared
                else Source.signs(mask=mask, scale=self._magnitude(name))
            )
            n_elements = self.base.tensors[name].n_elements
            core.add_job(n_elements, [base, delta], outputs[name], grain=GRAIN)
        results = restore(core, limits, progress)
        for name, result in zip(names, results, strict=True):
            for one, lanes in zip(inputs[name], result.inputs, strict=True):
                self.check(one, lanes)
        return {name: result.output for name, result in zip(names, results, strict=True)}

    def _make_sparse(
        self,
        core: Plan,
        outputs: Mapping[str, Sequence[Place]],
        limits: Limits,
        progress: Callable[[int], object] | None,
    ) -> dict[str, list[int]]:
        base = {name: self.base.tensors[name] for name in outputs}
        stored = self.files[self.file]
        made = sparse_files.unpack(
            core, base, stored, outputs, self.manifest.parameters, limits, progress=progress
        )
        for name, lanes in made.items():
            self.check(base[name], lanes.base)
            self.check(stored[name], lanes.mask)
            self.check(stored[sparse_files.values_name(name)], lanes.values)
            if lanes.scales is not None:
                self.check(stored[sparse_files.scales_name(name)], lanes.scales)
        return {name: lanes.output for name, lanes in made.items()}

    def _make_of_factors(
        self,
        core: Plan,
        outputs: Mapping[str, Sequence[Place]],
        limits: Limits,
        progress: Callable[[int], object] | None,
    ) -> dict[str, list[int]]:
        made = {}
        for name, places in outputs.items():
            shared = self.files[SHARED][name] if SHARED in self.files else None
            prints, made[name] = low_rank_files.restore(
                core,
                self.base.tensors[name],
                shared,
                self.files[self.file],
                places,
                limits.n_threads,
                progress,
            )
            for one, lanes in prints:
                self.check(one, lanes)
        return made

    def copy(self, name: str, write: Write) -> list[int]:
        """Hand over the bytes of a tensor that is copied; its content fingerprint, once checked."""
        one = self.stored(name)
        lanes = copy_out(one, write)
        self.check(one, lanes)
        return lanes

    def _inputs(self, name: str, has_shared: bool) -> list[TensorInfo]:
        shared = [self.files[SHARED][name]] if has_shared else []
        return [self.base.tensors[name], *shared, self.files[self.file][name]]

    def _magnitude(self, name: str) -> float:
        one = self.files[self.file][scale_name(name)]
        data = b"".join(bytes(chunk) for chunk in chunks(one))
        self.check(one, content(one))
        (value,) = struct.unpack("<f", data)
        return float(value)

    def check(self, one: TensorInfo, lanes: Sequence[int]) -> None:
        """Raise InputError unless a tensor that was read is what it was when the store was made."""
        refuse_damaged(self.path, self.manifest, self.base, one, lanes)
