"""A merge on disk while it runs: the open files, the passes, and what can be gone on from."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .._core import Limits, Plan
from ..checkpoint.data import chunks, same_bytes
from ..checkpoint.files import refuse_changed, stamps
from ..checkpoint.layout import INDEX_NAME, Shard, index_file, tensor_bytes
from ..checkpoint.safetensors import TensorInfo
from ..engine.files import Inputs
from ..engine.jobs import Work
from ..engine.matrices import passes_for
from ..engine.passes import Passes
from ..engine.usage import Progress
from ..errors import InputError
from .journal import Journal, holds
from .layer_dropping import choose, without
from .layer_scaling import find_alpha
from .plan import MergePlan
from .result import MergeResult


class MergeRun:
    """One merge: the open files, the passes and what they found out."""

    def __init__(
        self,
        made: MergePlan,
        limits: Limits,
        threads: int,
        max_bytes: int,
        progress: Progress | None,
    ) -> None:
        self._plan = made
        self._limits = limits
        self._threads = threads
        self._max_bytes = max_bytes
        self._progress = progress
        self._moved = 0
        self._core = Plan(made.has_base)
        self._works: list[Work] = []
        self._outputs: dict[str, TensorInfo] = {}
        self._dropped: list[list[str]] = []
        """For each expert, the layers of its task vector that are left out."""
        self._paths = made.input_files()
        self._stamps = stamps([Path(path) for path in self._paths])
        self.warnings: list[str] = list(made.warnings)

    def key(self) -> dict[str, Any]:
        """What the journal of a run must agree in for another to go on from there."""
        return {"plan": self._plan.to_json_dict(), "inputs": self._stamps}

    def write_tensors(self, directory: Path, journal: Journal) -> MergeResult:
        """Write every tensor file that the journal does not call finished, and the index."""
        made = self._plan
        if not journal.load():
            _remove_all(directory)
            journal.begin()
        files = self._open_files(directory)
        self._drop_layers(journal)
        passes = self._passes()
        finished = self._restore(passes, journal, directory)
        if passes.by_model and not passes.model and self._works:
            passes.survey_model()
            journal.record_survey(passes.model)
        passes.scale(made.modifiers.factors(made.match.merged, self._alpha(passes, journal)))
        for shard in made.shards:
            if shard.name in finished:
                continue
            self._core.write(files[shard.name], made.header(shard)[0], 0)
            jobs = self._jobs(shard)
            passes.combine(jobs)
            self._copy_tensors(files[shard.name], shard)
            journal.record_file(shard.name, {job: passes.outcomes[job] for job in jobs})
        passes.settle_majority()
        if (index := index_file(made.shards)) is not None:
            (directory / INDEX_NAME).write_bytes(index)
        self._advance(made.bytes_moved)
        warnings = [*self.warnings, *self._overflows(passes)]
        return MergeResult(
            made, self._works, self._outputs, passes, self._dropped, journal.alpha, warnings
        )

    def _open_files(self, directory: Path) -> dict[str, int]:
        """Open all inputs, make room for all outputs; the latters' numbers by name."""
        self._inputs = Inputs(self._core, self._paths)
        files, places = {}, {}
        for shard in self._plan.shards:
            head, offsets = self._plan.header(shard)
            path = directory / shard.name
            file = self._core.open_to_write(os.fspath(path), len(head) + shard.n_bytes)
            files[shard.name] = file
            for entry, offset in zip(shard.tensors, offsets, strict=True):
                name, dtype, shape = entry
                places[name] = (file, offset)
                self._outputs[name] = TensorInfo(
                    name, dtype, tuple(shape), path, offset, tensor_bytes(entry)
                )
        self._works = self._plan.works(self._inputs, places)
        self._number = {work.name: job for job, work in enumerate(self._works)}
        return files

    def _drop_layers(self, journal: Journal) -> None:
        """Put the base in the place of the models in the layers that they lose."""
        made = self._plan
        if made.modifiers.drop_layers is None:
            return
        if journal.dropped is None:
            survey = self._plan_to_read()
            progress = self._advance if self._progress else None
            n_experts = len(made.experts)
            journal.record_dropped(
                choose(made.modifiers, survey, self._works, n_experts, self._limits, progress)
            )
        self._dropped = journal.dropped or []
        self._works = without(self._works, self._dropped, made.modifiers.layers(made.match.merged))

    def _alpha(self, passes: Passes, journal: Journal) -> float | None:
        """The factor of the first layer, where it follows from norms."""
        if not self._plan.modifiers.needs_norms:
            return None
        if journal.alpha is None:
            progress = self._advance if self._progress else None
            journal.record_alpha(
                find_alpha(self._plan_to_read, self._works, passes, self._limits, progress)
            )
        return journal.alpha

    def _plan_to_read(self) -> Plan:
        """A plan with the inputs open, numbered as in that of the merge."""
        return self._inputs.open_again(Plan(True))

    def _jobs(self, shard: Shard) -> list[int]:
        return [self._number[name] for name, _, _ in shard.tensors if name in self._number]

    def _copied_in(self, shard: Shard) -> list[str]:
        return [name for name, _, _ in shard.tensors if self._plan.action(name) == "copy"]

    def _passes(self) -> Passes:
        stop = self._plan.config.nonfinite == "error"

        def refuse(job: int) -> None:
            raise InputError(self._objections(job)[0])

        config = self._plan.config
        return passes_for(
            config.method,
            self._core,
            self._works,
            config.constants(),
            config.semantics,
            self._limits,
            n_workers=self._threads,
            max_bytes=self._max_bytes,
            labels=self._plan.labels,
            has_base=self._plan.has_base,
            seed=self._plan.config.seed,
            fingerprints=True,
            stop_at_overflow=stop,
            report_overflow=refuse if stop else None,
            progress=self._advance if self._progress else None,
        )

    def _restore(self, passes: Passes, journal: Journal, directory: Path) -> set[str]:
        """Take over what an earlier run left; the files that still hold what it finished."""
        passes.model = journal.survey
        for outcomes in journal.finished.values():
            passes.outcomes.update(outcomes)
        settling = passes.settles_last and len(journal.finished) == len(self._plan.shards)
        majority = passes.majority(passes.outcomes) if settling else None

        def is_intact(shard: Shard) -> bool:
            """Whether the file survived what ended the earlier run, such as a power failure."""
            head, _ = self._plan.header(shard)
            with open(directory / shard.name, "rb") as file:
                if file.read(len(head)) != head:
                    return False
            copied = all(
                same_bytes(self._outputs[name], self._plan.template.tensors[name])
                for name in self._copied_in(shard)
            )
            return copied and all(
                holds(self._outputs[name], passes.outcomes[job], majority)
                for job in self._jobs(shard)
                for name in self._names(job)
            )

        shards = [shard for shard in self._plan.shards if shard.name in journal.finished]
        with ThreadPoolExecutor(self._threads) as pool:
            intact = list(pool.map(is_intact, shards))
        return {shard.name for shard, good in zip(shards, intact, strict=True) if good}

    def _names(self, job: int) -> list[str]:
        """Under which names a tensor is written: its own and those tied to it."""
        own = self._works[job].name
        return [own, *(alias for alias, name in self._plan.match.tied.items() if name == own)]

    def _advance(self, n_bytes: int) -> None:
        whole = self._plan.bytes_moved
        self._moved += n_bytes
        if self._progress is not None:
            self._progress(min(self._moved, whole), whole)

    def _objections(self, job: int) -> list[str]:
        """What made a tensor's result infinite or NaN: inputs, or else the merge itself."""
        name = self._works[job].name
        found = []
        for i, model in enumerate(self._plan.models):
            count, first = self._core.find_nonfinite(job, i, self._limits)
            if count:
                info = self._plan.match.source(model, name)
                values = "values in float32" if info.dtype == "F64" else "values"
                found.append(
                    f"{info.path}: tensor {name!r} has {count} NaN or infinite {values}, the first "
                    f"at element {first}, expected finite ones; repair the model, or pass "
                    "--nonfinite propagate"
                )
        return found or [
            f"tensor {name!r}: merged values overflow {self._outputs[name].dtype}; lower the scale "
            "or the weights, write a wider --out-dtype, or pass --nonfinite propagate"
        ]

    def _overflows(self, passes: Passes) -> list[str]:
        """Warnings about results that are not finite, where they are to be warned of."""
        if self._plan.config.nonfinite != "warn":
            return []
        return [
            objection
            for job, outcome in sorted(passes.outcomes.items())
            if outcome.overflow
            for objection in self._objections(job)
        ]

    def _copy_tensors(self, file: int, shard: Shard) -> None:
        for name in self._copied_in(shard):
            at = self._outputs[name].offset
            for chunk in chunks(self._plan.template.tensors[name]):
                self._core.write(file, bytes(chunk), at)
                at += len(chunk)

    def check_unchanged(self) -> None:
        """Raise StorageError if an input changed while it was being read."""
        refuse_changed(self._stamps)


def _remove_all(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
