"""States the plan of a merge: the treatment of every tensor, and where it is read and written."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.beside import TOKENIZER_FILES
from ..checkpoint.cards import of_one_model
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.configuration import written_parts
from ..checkpoint.files import AuxiliaryFiles
from ..checkpoint.layout import Shard
from ..checkpoint.match import Match, Model, row_length
from ..checkpoint.tensors import TensorInfo
from ..engine.files import PlanFiles
from ..engine.jobs import Work, settings
from ..engine.surveys.survey import Survey, survey_of
from ..recipe.config import MergeConfig
from ..recipe.modifiers import Modifiers
from ..spec.rules import Rule
from . import plain
from .joining import with_own_tokenizer
from .steps import Request, can_guess, n_surveys

if TYPE_CHECKING:
    from ..hub.download import Download
    from .stack import Stack
    from .vocabulary import Vocabulary


@dataclass(frozen=True)
class MergePlan:
    """The plan of a merge; ``str(plan)`` is for a person, ``to_json_dict()`` for a program."""

    config: MergeConfig
    rule: Rule
    template: Checkpoint
    """The base, or the first model where there is none: names, dtypes and what is copied."""
    donor: Checkpoint
    """The model whose configuration and tokenizer files the result gets."""
    experts: tuple[Checkpoint, ...]
    models: tuple[Model, ...]
    """The inputs of the passes: the base if the method uses one, then the experts."""
    match: Match
    parameters: Mapping[str, Mapping[str, Any]]
    """By merged tensor, the parameters with gradients and filters worked out."""
    modifiers: Modifiers
    shards: tuple[Shard, ...]
    warnings: tuple[str, ...]
    stack: Stack | None = None
    """The layers of the result, where they are stacked of slices of models."""
    is_file: bool = False
    """True if the result is one file, with nothing beside it."""
    stages: tuple[tuple[str, MergePlan], ...] = ()
    """The plans of the stages before this merge, by name."""
    given: tuple[str, ...] = ()
    """The files of tensors that the request gives."""
    downloads: tuple[Download, ...] = ()
    """The files of models of the hub that a merge downloads first."""
    vocabulary: Vocabulary | None = None
    """The tokenizer of the result and the rows of its tokens, where the request asks for one."""
    chat_template: str | None = None
    """The text of the chat template that the result gets in place of its tokenizer's."""

    @property
    def bytes_downloaded(self) -> int:
        """Bytes that a merge downloads first."""
        return sum(one.n_bytes_missing for one in self.downloads)

    @property
    def has_base(self) -> bool:
        """True where the method forms task vectors."""
        return len(self.models) > len(self.experts)

    def inputs(self, name: str) -> list[Model]:
        """Return the models that take part in a tensor, the base before the experts."""
        if self.stack is None:
            return [*self.models]
        experts = self.models[self.has_base :]
        taken = [experts[number] for number in self.stack.taking(name)]
        return [*self.models[: self.has_base], *taken]

    def taking(self, name: str) -> Sequence[int]:
        """Return the numbers of the experts that take part in a tensor, in order."""
        return range(len(self.experts)) if self.stack is None else self.stack.taking(name)

    @property
    def labels(self) -> list[str]:
        """The experts, as messages name them."""
        return [model.label for model in self.models[self.has_base :]]

    @cached_property
    def survey(self) -> Survey | None:
        """The survey that the method needs before the combine."""
        return survey_of(self.rule.survey) if self.rule.survey else None

    @cached_property
    def n_parameters(self) -> int:
        """Scalars that are merged; tied ones count once."""
        return sum(math.prod(self.merged_shape(name)) for name in self.match.merged)

    def merged_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the part of a tensor that is merged: all of it, or its first rows."""
        shape = self.template.tensors[name].shape
        return (self.match.rows[name], *shape[1:]) if name in self.match.rows else shape

    @cached_property
    def bytes_written(self) -> int:
        """Bytes of the result's tensor files."""
        return sum(shard.n_bytes + len(self.header(shard)[0]) for shard in self.shards)

    @cached_property
    def guesses(self) -> bool:
        """True where the combine proves thresholds that a sample names."""
        return can_guess(self.config.method, self.modifiers, self.survey)

    @cached_property
    def bytes_surveyed(self) -> int:
        """Bytes that the surveys read before the combine, if each takes one pass."""
        n_passes = n_surveys(self.config.method, self.modifiers, self.survey)
        found = n_passes * self.bytes_combined
        return found if self.guesses else found - self.bytes_spared

    @cached_property
    def bytes_spared(self) -> int:
        """Bytes of the tensors that need one pass of the survey less than others."""
        if self.survey is None:
            return 0
        spares = self.survey.spares
        return sum(n for name, n in self.input_bytes.items() if spares(self.parameters[name]))

    @property
    def bytes_guessed(self) -> int:
        """Bytes that a survey reads where nothing can be guessed, as on a device."""
        return self.bytes_combined - self.bytes_spared if self.guesses else 0

    @property
    def bytes_combined(self) -> int:
        """Bytes of all models that the combine reads."""
        return sum(self.input_bytes.values())

    @cached_property
    def input_bytes(self) -> Mapping[str, int]:
        """Bytes of the models that the combine reads, by tensor."""
        return {
            name: sum(self.match.source(model, name).n_bytes for model in self.inputs(name))
            for name in self.match.merged
        }

    @cached_property
    def auxiliary(self) -> AuxiliaryFiles:
        """The files beside the tensors; InputError if their config.json cannot be made true."""
        entries = [entry for shard in self.shards for entry in shard.tensors]
        if self.is_file:
            return AuxiliaryFiles({}, {})
        donor = self.donor
        found = AuxiliaryFiles.of(
            {path: at for path, at in donor.small_files().items() if self._is_copied(path)},
            written_parts(
                self.template,
                entries,
                self.match.tied,
                asked_dtype=self.config.output_dtype is not None,
                asked_tied=self.config.tied,
                donated=os.path.realpath(donor.path) != os.path.realpath(self.template.path),
                joined=self.vocabulary is not None or self.config.resizes,
                layers=self.stack.layers_of_parts() if self.stack else (),
            ),
        )
        return with_own_tokenizer(found, self.vocabulary, self.chat_template)

    def _is_copied(self, path: Path) -> bool:
        """Tell if a small file of the donor is copied beside the result."""
        wanted = self.config.copy_tokenizer or path.name not in TOKENIZER_FILES
        return wanted and not of_one_model(path)

    @property
    def bytes_read(self) -> int:
        """Bytes of all models that the surveys and the combine read."""
        return self.bytes_surveyed + self.bytes_combined

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written: the whole of a progress bar."""
        return self.bytes_read + self.bytes_written

    def header(self, shard: Shard) -> tuple[bytes, list[int]]:
        """Return the first bytes of an output shard and the offset of each of its tensors."""
        return shard.header()

    def input_files(self) -> list[str]:
        """Return all files of tensors that are read, once each."""
        paths = (path for one in (self.template, *self.experts) for path in one.files)
        return sorted({*map(os.fspath, paths), *self.given})

    def tokenizer_files(self) -> list[str]:
        """Return the files of the tokenizers that were read to join them."""
        return sorted(map(os.fspath, self.vocabulary.read if self.vocabulary else ()))

    def adapter_files(self) -> list[str]:
        """Return the files of all adapters of the models: factors and configurations."""
        models = (self.template, *self.experts)
        files = (path for one in models for each in one.adapters for path in each.files)
        return sorted(set(map(os.fspath, files)))

    def input_roots(self) -> list[Any]:
        """Return the directories or files that the models and their adapters are."""
        models = (self.template, self.donor, *self.experts)
        return [*(path for one in models for path in one.paths), *self.given]

    def works(self, files: PlanFiles, outputs: Mapping[str, TensorInfo]) -> list[Work]:
        """Return the merged tensors as the passes take them, at the method's own scale.

        Args:
            files: The open files of the native plan, inputs and outputs.
            outputs: Each output tensor by name.
        """
        aliases: dict[str, list[str]] = {}
        for alias, canonical in self.match.tied.items():
            aliases.setdefault(canonical, []).append(alias)
        works = []
        for name in self.match.merged:
            infos = [self.match.source(model, name) for model in self.inputs(name)]
            names = (name, *aliases.get(name, []))
            works.append(
                Work(
                    name=name,
                    n_elements=math.prod(self.merged_shape(name)),
                    inputs=tuple(files.operand(info) for info in infos),
                    outputs=tuple(files.place(outputs[one]) for one in names),
                    row_length=row_length(infos[0]),
                    n_input_bytes=sum(info.n_bytes for info in infos),
                    shape=self.merged_shape(name),
                    **settings(self.parameters[name], len(self.taking(name))),
                )
            )
        return works

    def request(self) -> Request:
        """Return the merge as the steps take it."""
        config = self.config
        return Request(
            method=config.method,
            constants=config.constants(),
            semantics=config.semantics,
            modifiers=self.modifiers,
            names=self.match.merged,
            labels=self.labels,
            has_base=self.has_base,
            seed=config.seed,
            nonfinite=config.nonfinite,
        )

    def to_json_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return plain.data(self)

    def action(self, name: str) -> str:
        """Return the treatment of a tensor: ``merge``, ``copy``, or ``tie`` to another name."""
        if name in self.match.tied:
            return "tie"
        return "copy" if name in self._copied else "merge"

    @cached_property
    def _copied(self) -> frozenset[str]:
        return frozenset(self.match.copied)

    def passes(self) -> list[str]:
        """Return the passes over the data, in words."""
        from .explain import passes_in_words

        return passes_in_words(self)

    def __str__(self) -> str:
        from .explain import explain

        return explain(self)
