"""The plan of a packing: which tensors are encoded, which stay dense, and the files for them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ...checkpoint.belonging import differences
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.data import same_tensor
from ...checkpoint.layout import Entry
from ...checkpoint.match import Match, Model
from ...checkpoint.opening import as_model
from ...checkpoint.policy import PACK, STRICT, Policy
from ...checkpoint.tensors import TensorInfo
from ...engine.codes import MAX_EXPERTS
from ...errors import InputError
from ...spec.choices import Choice
from ..codecs import registry as codecs
from ..families.family import Family
from ..families.registry import family_of
from ..lambdas import Lambdas, take_lambdas
from ..layout import Layout
from ..manifest import SHARED
from ..names import check_task_names
from .checks import LORA, check_copied, refuse_decoded, refuse_no_paths, refuse_other_adapters
from .inputs import open_inputs
from .stored import open_as_stored, refuse_no_base


class Integers(Choice):
    """The treatment of integers and booleans, where the codec does not encode them."""

    EQUAL = "equal"
    """They must be the base's."""
    BASE = "base"
    """The base's are taken, whatever the tasks have."""


class TaskFile(NamedTuple):
    """The file of a task, or of one of its candidates."""

    task: str
    mask_lambda: float | None
    path: str
    """The path in the store."""


@dataclass(frozen=True)
class PackPlan:
    """The treatment of every tensor, and the files of the store."""

    family: Family
    lambdas: Lambdas
    base: Checkpoint
    """The base; a model without tensors where there is none."""
    tasks: Mapping[str, Checkpoint]
    texts: Mapping[str, str]
    """The models as they were asked for: the base under "", the tasks under their names."""
    match: Match
    coded: tuple[str, ...]
    """Tensors that a task changed and the family encodes."""
    dense: tuple[str, ...]
    """Tensors that a task changed and that are stored as they are."""
    frozen: tuple[str, ...]
    """Tensors that no task changed."""
    variant: str | None
    """The variant of the weights that was asked for."""
    warnings: tuple[str, ...] = ()

    @classmethod
    def make(
        cls,
        base: str | os.PathLike[str] | None,
        tasks: Mapping[str, str | os.PathLike[str]],
        codec: str,
        parameters: Mapping[str, Any],
        integers: Integers,
        policy: Policy = STRICT,
        variant: str | None = None,
        *,
        any_architecture: bool = False,
        bars: bool = False,
    ) -> PackPlan:
        """Check a request against the headers, and find out which tensors the tasks changed.

        Args:
            base: The base checkpoint; None where tasks are kept by themselves.
            tasks: Checkpoints by the names of their tasks.
            codec: The name of a codec.
            parameters: Parameters of the codec; those that are missing take their defaults.
            integers: The treatment of integers and booleans.
            policy: The treatment of tensors that not all tasks have.
            any_architecture: Accept models whose configurations name another architecture.
            variant: The variant of the weights to read where there are several.
            bars: Show a bar for each file that is downloaded.

        Raises:
            InputError: The request or an input is wrong.
        """
        found = codecs.get(codec)
        if not found.of_stored:
            refuse_no_base(codec, base)
        refuse_no_paths({"base": base or "", **tasks})
        given = dict(parameters)
        check_task_names(tasks)
        if not tasks:
            raise InputError("tasks: found none, expected at least one")
        lambdas = take_lambdas(given, list(tasks), found.has_lambda())
        family = family_of(codec, given)
        n_masks = len(tasks) * lambdas.n_per_task
        if n_masks > MAX_EXPERTS:
            raise InputError(
                f"tasks: found {n_masks} masks to make, expected at most {MAX_EXPERTS}"
            )
        texts = {name: os.fspath(text) for name, text in {"": base or "", **tasks}.items()}
        with_integers = found.codes_integers(family.parameters)
        policy = replace(policy, constants=False, counters=not with_integers, advice=PACK)
        opened = open_as_stored if found.of_stored else open_inputs
        inputs = opened(texts, policy, variant=variant, bars=bars)
        origin, *experts = inputs.models.values()
        models, matched = [as_model(one) for one in (origin, *experts)], inputs.match
        warnings: list[str] = []
        if texts[""]:
            warnings = differences((origin, *experts), any_architecture=any_architecture)
        if not with_integers and integers is Integers.EQUAL:
            check_copied(models, matched)
        names = sorted(
            (*matched.merged, *(matched.copied if with_integers else ())), key=str.encode
        )
        changed = set(_changed(names, origin, experts, matched))
        coded = [
            name
            for name in names
            if name in changed
            and found.is_coded(name, origin.tensors[name].shape, family.parameters)
        ]
        for name in coded:
            refuse_decoded(family, *(matched.source(model, name) for model in models))
        if codec == LORA:
            refuse_other_adapters(coded, matched, models, inputs)
        return cls(
            family=family,
            lambdas=lambdas,
            base=origin,
            tasks=dict(zip(tasks, experts, strict=True)),
            texts=inputs.texts,
            match=matched,
            coded=tuple(coded),
            dense=tuple(n for n in matched.merged if n in changed and n not in set(coded)),
            frozen=tuple(n for n in matched.merged if n not in changed),
            warnings=(*inputs.warnings, *warnings),
            variant=variant,
        )

    @cached_property
    def task_files(self) -> list[TaskFile]:
        """The file of every task, or of each of its candidates, task by task."""
        return [
            TaskFile(task, value, self.lambdas.file(task, value))
            for task in self.tasks
            for value in self.lambdas.of(task)
        ]

    @cached_property
    def layout(self) -> Layout:
        """The tensors of every file of the store."""
        tensors = self.base.tensors
        files: dict[str, list[Entry]] = {}
        if self.family.has_shared:
            files[SHARED] = [self.family.shared_entry(tensors[name]) for name in self.coded]
        n_each = self.lambdas.n_per_task
        for i, (_, _, file) in enumerate(self.task_files):
            coded = [entry for name in self.coded for entry in self.family.entries(tensors[name])]
            sources = {name: self.sources(name)[1 + i // n_each] for name in self.dense}
            coded += [(name, one.decoded_dtype, one.shape) for name, one in sources.items()]
            files[file] = coded
        return Layout(files)

    @cached_property
    def n_coded(self) -> int:
        """Parameters that the family encodes; those of tensors of the tasks' own once a name."""
        own = {name: one for tensors in self.own for name, one in tensors.items()}
        coded = {name: self.base.tensors[name] for name in self.coded} | own
        return sum(one.n_elements for one in coded.values())

    @cached_property
    def coded_names(self) -> set[str]:
        """Tensors that the family encodes, those of the tasks' own among them."""
        return {*self.coded, *(name for tensors in self.own for name in tensors)}

    @cached_property
    def bytes_read(self) -> int:
        """Bytes of the inputs that the family reads."""
        own = sum(one.n_bytes for tensors in self.own for one in tensors.values())
        return own + sum(one.n_bytes for name in self.coded for one in self.sources(name))

    @cached_property
    def _models(self) -> list[Model]:
        return [as_model(one) for one in (self.base, *self.tasks.values())]

    def n_missing(self, task: int) -> int:
        """Return how many tensors of the base stand for those that a task's expert lacks."""
        model, match = self._models[1 + task], self.match
        names = (*match.merged, *match.copied)
        return sum(match.own(model, name) is None for name in names if name not in model.tensors)

    def n_extra(self, task: int) -> int:
        """Return how many tensors of a task's expert the base lacks; they are left out."""
        if self.family.codec.of_stored:
            return 0
        model = self._models[1 + task]
        known = self.base.tensors.keys() | model.tied.keys()
        return sum(name not in known for name in model.tensors)

    def sources(self, name: str) -> list[TensorInfo]:
        """Return the tensor in the base and in every task."""
        return [self.match.source(model, name) for model in self._models]

    @property
    def has_base(self) -> bool:
        """False if the tasks are kept by themselves."""
        return bool(self.texts[""])

    @cached_property
    def own(self) -> list[dict[str, TensorInfo]]:
        """By task, the tensors that are kept beside those that all models have alike."""
        if not self.family.codec.of_stored:
            return [{} for _ in self.tasks]
        known = {*self.match.template}
        return [
            {name: one for name, one in task.tensors.items() if name not in known}
            for task in self.tasks.values()
        ]

    def lacks(self, task: int) -> tuple[str, ...]:
        """Return the tensors of the base that a task does not have."""
        if not self.family.codec.of_stored:
            return ()
        has = [*self.tasks.values()][task].tensors
        return tuple(sorted(self.base.tensors.keys() - has.keys()))

    @property
    def read_models(self) -> list[Checkpoint]:
        """The base, if there is one, and the experts."""
        return [*([self.base] if self.has_base else []), *self.tasks.values()]

    def roots(self) -> list[Path]:
        """Return the directories or files of the inputs."""
        return [path for one in self.read_models for path in one.paths]

    def input_files(self) -> list[str]:
        """Return all tensor files of the inputs, once each."""
        models = (self.base, *self.tasks.values())
        return sorted({os.fspath(path) for one in models for path in one.files})

    def small_files(self) -> list[Path]:
        """Return the files of base and experts that are no weights, such as tokenizers."""
        return [path for one in self.read_models for path in one.small_files().values()]

    def kind(self, name: str) -> str:
        """Return the manifest's word for the origin of a task's tensor."""
        if name in self.match.tied:
            return "tied"
        if name not in self.match.template:
            return "frozen"
        return self._kinds.get(name, "copied")

    @cached_property
    def _kinds(self) -> dict[str, str]:
        kinds = {self.family.kind: self.coded, "dense": self.dense, "frozen": self.frozen}
        return {name: kind for kind, names in kinds.items() for name in names}


def _changed(
    names: Sequence[str], base: Checkpoint, tasks: Sequence[Checkpoint], matched: Match
) -> Iterator[str]:
    """Yield the tensors that a task has in other bytes, or another dtype, than the base.

    A changed tensor mostly differs early; an unchanged one is read whole.
    """
    models = [as_model(one) for one in (base, *tasks)]
    for name in names:
        origin, *others = (matched.source(model, name) for model in models)
        if not all(same_tensor(one, origin) for one in others):
            yield name
