"""What packing will do: which tensors get masks, which are kept whole, and the files for them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.data import same_bytes, same_tensor
from ...checkpoint.layout import Entry, header, tensor_bytes
from ...checkpoint.match import Match, Model, match
from ...checkpoint.opening import as_model, open_model
from ...checkpoint.safetensors import TensorInfo
from ...engine.codes import MAX_EXPERTS
from ...errors import InputError
from ...recipe.parameters import check_parameters
from ...spec.choices import PAPER
from ...spec.rules import Rule
from ..codecs import registry as codecs
from ..codecs._codec import Codec, Mask
from ..codecs._low_rank import LowRankCodec
from ..codecs.sparse import Sparse
from ..families.masked import scale_name
from ..lambdas import Lambdas, take_lambdas
from ..manifest import SHARED
from ..names import check_task_names


@dataclass(frozen=True)
class PackPlan:
    """What becomes of every tensor, and the files that will hold it."""

    codec: type[Codec]
    parameters: Mapping[str, Any]
    lambdas: Lambdas
    base: Checkpoint
    tasks: Mapping[str, Checkpoint]
    match: Match
    masked: tuple[str, ...]
    dense: tuple[str, ...]
    frozen: tuple[str, ...]

    @classmethod
    def make(
        cls,
        base: str | os.PathLike[str],
        tasks: Mapping[str, str | os.PathLike[str]],
        codec: str,
        parameters: Mapping[str, Any],
        integers: str,
    ) -> PackPlan:
        """Check a request against the headers, and find out which tensors the tasks changed."""
        found = codecs.get(codec)
        given = dict(parameters)
        check_task_names(tasks)
        if not tasks:
            raise InputError("tasks: found none, expected at least one")
        lambdas = take_lambdas(given, list(tasks), found.mask is Mask.TALL)
        values: dict[str, Any] = {
            **{name: one.default for name, one in found.parameters().items()},
            **check_parameters(given, found, PAPER),
        }
        values.pop("mask_lambda", None)
        n_masks = len(tasks) * lambdas.n_per_task
        if n_masks > MAX_EXPERTS:
            raise InputError(
                f"tasks: found {n_masks} masks to make, expected at most {MAX_EXPERTS}"
            )
        origin = open_model(os.fspath(base))
        experts = {name: open_model(os.fspath(path)) for name, path in tasks.items()}
        models = [as_model(one) for one in (origin, *experts.values())]
        matched = match(models[0], models)
        exact = found is Sparse and Sparse.is_exact(values)
        if not exact:
            _check_copied(origin, experts, matched, integers)
        names = sorted((*matched.merged, *(matched.copied if exact else ())), key=str.encode)
        changed = set(_changed(names, origin, list(experts.values()), matched))
        masked = [
            name
            for name in names
            if name in changed and found.is_masked(name, origin.tensors[name].shape, values)
        ]
        return cls(
            codec=found,
            parameters=values,
            lambdas=lambdas,
            base=origin,
            tasks=experts,
            match=matched,
            masked=tuple(masked),
            dense=tuple(n for n in matched.merged if n in changed and n not in set(masked)),
            frozen=tuple(n for n in matched.merged if n not in changed),
        )

    @cached_property
    def rule(self) -> Rule | None:
        """How the shared vector is merged."""
        return self.codec.shared_rule(self.parameters)

    @cached_property
    def masks(self) -> list[tuple[str, float | None, str]]:
        """Task, lambda and file of every mask, task by task."""
        return [
            (task, value, self.lambdas.file(task, value))
            for task in self.tasks
            for value in self.lambdas.of(task)
        ]

    @cached_property
    def files(self) -> dict[str, list[Entry]]:
        """The tensors of every file, relative to the store."""
        tensors = self.base.tensors
        files: dict[str, list[Entry]] = {}
        if self.rule is not None:
            dtype = self.parameters["shared_dtype"]
            files[SHARED] = [
                (name, tensors[name].dtype if dtype == "base" else dtype, tensors[name].shape)
                for name in self.masked
            ]
        n_each = self.lambdas.n_per_task
        for task, (_, _, file) in enumerate(self.masks):
            if issubclass(self.codec, LowRankCodec):
                files[file] = [
                    entry
                    for name in self.masked
                    for entry in self.codec.entries(
                        name, tensors[name].dtype, tensors[name].shape, self.parameters
                    )
                ]
            else:
                files[file] = [
                    (name, "U8", ((tensors[name].n_elements + 7) // 8,)) for name in self.masked
                ]
                if self.rule is None:
                    files[file] += [(scale_name(name), "F32", ()) for name in self.masked]
            files[file] += [
                (name, one.dtype, one.shape)
                for name in self.dense
                for one in [self.sources(name)[1 + task // n_each]]
            ]
        return files

    @cached_property
    def headers(self) -> dict[str, tuple[bytes, list[int]]]:
        """The first bytes of every file, and the offsets of its tensors."""
        return {file: header(entries) for file, entries in self.files.items()}

    @cached_property
    def places(self) -> dict[str, dict[str, TensorInfo]]:
        """By file and name, where every tensor will lie."""
        return {
            file: {
                name: TensorInfo(name, dtype, tuple(shape), Path(file), offset, tensor_bytes(entry))
                for entry, offset in zip(entries, self.headers[file][1], strict=True)
                for name, dtype, shape in [entry]
            }
            for file, entries in self.files.items()
        }

    @cached_property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.file_bytes(file) for file in self.files)

    def file_bytes(self, file: str) -> int:
        """Bytes of one file, its header included."""
        return len(self.headers[file][0]) + sum(map(tensor_bytes, self.files[file]))

    @cached_property
    def n_masked(self) -> int:
        """Parameters that have a bit in each mask."""
        return sum(self.base.tensors[name].n_elements for name in self.masked)

    @cached_property
    def bytes_read(self) -> int:
        """Bytes of the inputs that the pass reads."""
        return sum(one.n_bytes for name in self.masked for one in self.sources(name))

    @cached_property
    def _models(self) -> list[Model]:
        return [as_model(one) for one in (self.base, *self.tasks.values())]

    def sources(self, name: str) -> list[TensorInfo]:
        """The tensor in the base and in every task."""
        return [self.match.source(model, name) for model in self._models]

    def roots(self) -> list[Path]:
        """The directories or files that go in."""
        return [self.base.path, *(one.path for one in self.tasks.values())]

    def input_files(self) -> list[str]:
        """All files of tensors that go in, once each."""
        models = (self.base, *self.tasks.values())
        return sorted({os.fspath(path) for one in models for path in one.files})

    def kind(self, name: str) -> str:
        """Where a task's tensor comes from, as the manifest says it."""
        if name in self.match.tied:
            return "tied"
        return self._kinds.get(name, "copied")

    @cached_property
    def _kinds(self) -> dict[str, str]:
        kinds = {self.codec.kind: self.masked, "dense": self.dense, "frozen": self.frozen}
        return {name: kind for kind, names in kinds.items() for name in names}


def _changed(
    names: Sequence[str], base: Checkpoint, tasks: Sequence[Checkpoint], matched: Match
) -> Iterator[str]:
    """The tensors that a task has in other bytes, or another dtype, than the base.

    A tensor that changed differs early; one that did not is read whole.
    """
    models = [as_model(one) for one in (base, *tasks)]
    for name in names:
        origin, *others = (matched.source(model, name) for model in models)
        if not all(same_tensor(one, origin) for one in others):
            yield name


def _check_copied(
    base: Checkpoint, tasks: Mapping[str, Checkpoint], matched: Match, integers: str
) -> None:
    if integers not in ("equal", "base"):
        raise InputError(f"integers: found {integers!r}, expected 'equal' or 'base'")
    for name in matched.copied if integers == "equal" else ():
        for task in tasks.values():
            if not same_bytes(base.tensors[name], task.tensors[name]):
                raise InputError(
                    f"{task.path}: tensor {name!r} is {task.tensors[name].dtype} and differs from "
                    f"that of {base.path}; integers are not packed: pass --param integers=base to "
                    "take the base's"
                )
