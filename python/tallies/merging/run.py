"""A merge on disk while it runs: its open files, and what another run can go on from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .._core import Limits, Plan
from ..checkpoint.data import chunks
from ..checkpoint.files import digest_of_start, refuse_changed, stamps
from ..checkpoint.layout import Shard, index_files
from ..checkpoint.rows import first_rows, last_rows
from ..checkpoint.tensors import TensorInfo
from ..engine.files import PlanFiles
from ..engine.nonfinite import objections
from ..engine.passes import Passes
from ..engine.usage import Advance, Progress
from ..linalg.threads import Workers
from .base_rows import base_rows, copied_bytes, holds_bytes
from .journal import Journal, holds
from .plan import MergePlan
from .result import MergeResult
from .steps import Steps


class MergeRun:
    """One merge on disk.

    Args:
        made: The plan of the merge.
        limits: Threads and buffers of the passes.
        threads: Threads for all else.
        max_bytes: Memory for the matrices in hand.
        progress: Is called with the bytes moved so far and in all.
        files: The open inputs, of a plan that other merges share; None for a plan of its own.

    Raises:
        StorageError: An input is not there.
    """

    def __init__(
        self,
        made: MergePlan,
        limits: Limits,
        threads: int,
        max_bytes: int,
        progress: Progress,
        files: PlanFiles | None = None,
    ) -> None:
        self._plan = made
        self._given = files
        self._limits = limits
        self._threads = threads
        self._max_bytes = max_bytes
        # A device needs its floors first: a survey takes the place of the guesses.
        surveyed = made.bytes_guessed if limits.device_bytes else 0
        self._advance = Advance(progress, made.bytes_moved + surveyed)
        self._outputs: dict[str, TensorInfo] = {}
        read = [*made.input_files(), *made.tokenizer_files()]
        self._stamps = stamps([Path(path) for path in read])
        self.warnings: list[str] = list(made.warnings)

    def key(self) -> dict[str, Any]:
        """Return the data that the journal of a run must agree in for another to go on from it."""
        inputs: dict[str, tuple[object, ...]] = dict(self._stamps)
        for path in self._plan.adapter_files():
            inputs[path] = (*self._stamps[path], digest_of_start(path))
        return {"plan": self._plan.to_json_dict(), "inputs": inputs}

    def write_tensors(self, directory: Path, journal: Journal) -> MergeResult:
        """Write every tensor file that the journal does not call finished, and the index.

        Args:
            directory: The directory of the files of the result.
            journal: The record of an earlier run, or an empty one.

        Raises:
            InputError: Values or parameters cannot be merged.
            StorageError: Reading or writing fails.
        """
        made = self._plan
        if not journal.load():
            _remove_all(directory)
            journal.begin()
        self._files = self._given or PlanFiles(Plan(made.has_base), made.input_files())
        self._create_outputs(directory)
        self._works = made.works(self._files, self._outputs)
        self._number = {work.name: job for job, work in enumerate(self._works)}
        steps = Steps(
            made.request(),
            self._files.plan,
            self._files.open_again,
            self._works,
            journal,
            self._limits,
            n_workers=self._threads,
            max_bytes=self._max_bytes,
            fingerprints=True,
            objections=self._objections,
            progress=self._advance if self._advance else None,
        )
        finished = self._restore(steps.passes, journal, directory)
        shards = [shard for shard in made.shards if shard.name not in finished]

        def finish(number: int) -> None:
            shard = shards[number]
            self._files.write_head(directory / shard.name, made.header(shard)[0])
            self._copy_tensors(shard)
            outcomes = {job: steps.passes.outcomes[job] for job in self._jobs(shard)}
            journal.record_file(shard.name, outcomes, steps.passes.guessed)

        steps.run([self._jobs(shard) for shard in shards], finish)
        for name, index in index_files(made.shards).items():
            (directory / name).write_bytes(index)
        self._advance.finish()
        self._files.close_written()
        return MergeResult(
            plan=made,
            works=steps.works,
            outputs=self._outputs,
            passes=steps.passes,
            dropped=journal.dropped or [],
            alpha=journal.alpha,
            warnings=[*self.warnings, *steps.warnings()],
            bytes_direct=self._limits.bytes_direct,
        )

    def check_unchanged(self) -> None:
        """Raise StorageError if an input changed while it was being read."""
        refuse_changed(self._stamps)

    def _create_outputs(self, directory: Path) -> None:
        """Make room for all output files."""
        for shard in self._plan.shards:
            path = directory / shard.name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files.create(path, len(shard.header()[0]) + shard.n_bytes)
            self._outputs |= shard.places(directory)

    def _jobs(self, shard: Shard) -> list[int]:
        return [self._number[name] for name, _, _ in shard.tensors if name in self._number]

    def _copied_in(self, shard: Shard) -> list[str]:
        return [name for name, _, _ in shard.tensors if self._plan.action(name) == "copy"]

    def _copy_tensors(self, shard: Shard) -> None:
        for name in self._copied_in(shard):
            at = 0
            for data in self._copied(name):
                self._files.write(self._outputs[name], data, at)
                at += len(data)
        for name, common in self._rows_in(shard):
            at = first_rows(self._outputs[name], common).n_bytes
            for data in self._base_rows(name, common):
                self._files.write(self._outputs[name], data, at)
                at += len(data)

    def _copied(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a tensor that is the template's."""
        return copied_bytes(self._plan.template.tensors[name], self._outputs[name].dtype)

    def _rows_in(self, shard: Shard) -> Iterator[tuple[str, int]]:
        """Yield the tensors of a file that have rows of the base alone, and the number of others.

        Aliases of such a tensor are among them.
        """
        match = self._plan.match
        for name, _, _ in shard.tensors:
            common = match.rows.get(match.tied.get(name, name))
            if common is not None:
                yield name, common

    def _base_rows(self, name: str, common: int) -> Iterator[bytes]:
        return base_rows(self._plan.template.tensors[name], common, self._outputs[name].dtype)

    def _restore(self, passes: Passes, journal: Journal, directory: Path) -> set[str]:
        """Take over the outcomes of an earlier run; return the files that still hold its work."""
        for outcomes in journal.finished.values():
            passes.outcomes.update(outcomes)
        whole = len(journal.finished) == len(self._plan.shards)
        settling = passes.settles_last and whole and journal.guess is None
        majority = passes.majority(passes.outcomes) if settling else None
        is_intact = partial(self._is_intact, directory, passes, majority)
        shards = [shard for shard in self._plan.shards if shard.name in journal.finished]
        with Workers(self._threads) as pool:
            intact = list(pool.map(is_intact, shards))
        return {shard.name for shard, good in zip(shards, intact, strict=True) if good}

    def _is_intact(
        self, directory: Path, passes: Passes, majority: int | None, shard: Shard
    ) -> bool:
        """Return whether a file survived the end of the earlier run, such as a power failure."""
        head, _ = self._plan.header(shard)
        with open(directory / shard.name, "rb") as file:
            if file.read(len(head)) != head:
                return False
        copied = all(
            holds_bytes(self._outputs[name], self._copied(name)) for name in self._copied_in(shard)
        )
        rows = self._plan.match.rows
        copied = copied and all(
            b"".join(chunks(last_rows(self._outputs[name], common)))
            == b"".join(self._base_rows(name, common))
            for name, common in self._rows_in(shard)
        )
        return copied and all(
            holds(
                first_rows(self._outputs[name], rows[own]) if own in rows else self._outputs[name],
                passes.outcomes[job],
                majority,
            )
            for job in self._jobs(shard)
            for own in [self._works[job].name]
            for name in self._names(job)
        )

    def _names(self, job: int) -> list[str]:
        """Return the names under which a tensor is written: its own and those tied to it."""
        own = self._works[job].name
        return [own, *(alias for alias, name in self._plan.match.tied.items() if name == own)]

    def _objections(self, job: int) -> Iterator[str]:
        """Yield the inputs that made a result infinite or NaN, or else the merge itself."""
        made, name = self._plan, self._works[job].name
        tensors = [made.match.source(model, name) for model in made.inputs(name)]
        found = list(objections(self._files.plan, job, tensors, self._limits))
        yield from found or [
            f"tensor {name!r}: merged values overflow {self._outputs[name].dtype}; lower the scale "
            "or the weights, write a wider --out-dtype, or pass --nonfinite propagate"
        ]


def _remove_all(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
