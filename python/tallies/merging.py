"""``merge``: recipe -> match -> plan -> passes -> report."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import _core, accelerate
from .destination import Destination
from .dropping import choose, without
from .errors import InputError, StorageError, TalliesError
from .files import (
    auxiliary_sizes,
    chunks,
    content,
    copy_file,
    model_fingerprint,
    refuse_changed,
    same_bytes,
    stamps,
    tensor_fingerprint,
)
from .floats import float_of
from .headers import TensorInfo
from .journal import Journal, holds
from .layout import INDEX_NAME, Shard, parse_size, tensor_bytes
from .match import Model
from .matrix_passes import passes_for, refuse_too_large
from .methods._spec import Gate, Vote
from .norms import find_alpha
from .passes import Passes
from .planning import MergePlan, index_file, plan
from .recipe import MergeConfig
from .report import MergeReport, ModelReport, OutputReport
from .resources import allow_open_files, check_rows, peak_memory_bytes
from .state_dicts import n_threads
from .work import Work

REPORT_NAME = "tallies.json"

Progress = Callable[[int, int], object]
"""Called with the bytes moved so far and the bytes to move in all."""

# Beside the tensors: room for index, report and journal, and what blocks round up.
_OTHER_BYTES = 1 << 20
_OTHER_BYTES_A_TENSOR = 1 << 12


def merge(
    config: str | os.PathLike[str] | Mapping[str, Any] | MergeConfig,
    out: str | os.PathLike[str],
    *,
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    device: str = "cpu",
    max_vram: str | int = "4GiB",
    max_shard_size: str | int = "5GB",
    seed: int = 0,
    nonfinite: str = "error",
    semantics: str = "paper",
    resume: bool = False,
    overwrite: bool = False,
    sync: bool = False,
    progress: Progress | None = None,
) -> MergeReport:
    """Merge checkpoints on disk into the new directory ``out``, tile by tile in bounded memory.

    ``config`` is a recipe file, a dict, a MergeConfig, or the ``tallies.json`` of an earlier merge,
    which repeats it. ``max_memory`` bounds the buffers, whatever the sizes and number of models;
    ``threads`` is None for all cores. ``device="cuda"`` merges the tiles on the first CUDA device,
    in buffers of at most ``max_vram`` there, or on the processor where there is none, the method
    has no kernel for it or the way there is too slow; the report's warnings then say so. None of
    these changes a byte of the result. ``max_shard_size``,
    ``seed``, ``nonfinite`` ("error", "warn" or "propagate" infinite and NaN values) and
    ``semantics`` replace what the recipe says unless left at their defaults.

    Inputs are widened to float32, sums run in float32 in the order of the experts, and each result
    is rounded once, to nearest even. ``out`` appears by a rename when it is complete. A run that
    failed or was killed leaves nothing in its place; with ``resume`` it keeps its finished files
    for the next run with ``resume``. ``sync`` flushes the files to disk first, for power failures.

    Raises InputError when the request or an input is wrong, before anything is written to ``out``;
    StorageError when reading or writing fails.

    >>> tallies.merge("ties.yml", "merged").experts[0].kept_fraction  # doctest: +SKIP
    0.2000000012
    """
    request = MergeConfig.load(config).replace(
        seed=seed or None,
        nonfinite=None if nonfinite == "error" else nonfinite,
        semantics=None if semantics == "paper" else semantics,
        max_shard_size=None if max_shard_size == "5GB" else max_shard_size,
    )
    start = time.perf_counter()
    made = plan(request)
    limits, on_cpu = accelerate.limits(
        device, max_memory, max_vram, n_threads(threads), made.rule, len(made.labels)
    )
    refuse_too_large(
        request.method,
        (
            (name, made.template.tensors[name].shape, made.parameters[name])
            for name in made.parameters
        ),
        len(made.experts),
        request.semantics,
        parse_size(max_memory),
    )
    if (rows := made.row_bytes) is not None:
        check_rows(*rows, max_memory, n_threads(threads))
    destination = Destination(out, [*made.input_roots(), *made.input_files()], overwrite)
    try:
        auxiliary = auxiliary_sizes(made.donor)
        others = _OTHER_BYTES + _OTHER_BYTES_A_TENSOR * len(made.template.tensors)
        destination.check_space(made.bytes_written + sum(auxiliary.values()) + others)
        n_openings = 1 + min(made.modifiers.n_surveys, 1)
        allow_open_files(n_openings * len(made.input_files()) + len(made.shards))
        run = _Run(made, limits, n_threads(threads), parse_size(max_memory), progress)
        run.warnings += [on_cpu] if on_cpu else []
        run.check_inputs()
        with destination.writing(resume, sync) as directory:
            journal = Journal(destination.workspace, run.key())
            run.write_tensors(directory, journal)
            for path in auxiliary:
                copy_file(made.donor.path / path, directory / path)
            seconds = time.perf_counter() - start
            report = run.report(destination.path, list(auxiliary), seconds, journal.alpha)
            run.check_unchanged()
            (directory / REPORT_NAME).write_text(report.to_json(), encoding="utf-8")
    except OSError as error:
        if isinstance(error, TalliesError):
            raise
        place = error.filename or destination.path
        raise StorageError(f"{place}: {error.strerror or error}") from error
    return report


class _Run:
    """One merge: the open files, the passes and what they found out."""

    def __init__(
        self,
        made: MergePlan,
        limits: _core.Limits,
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
        self._core = _core.Plan(made.has_base)
        self._works: list[Work] = []
        self._outputs: dict[str, TensorInfo] = {}
        self._dropped: list[list[str]] = []
        """For each expert, the layers of its task vector that are left out."""
        self._paths = made.input_files()
        self._stamps = stamps([Path(path) for path in self._paths])
        self.warnings: list[str] = list(made.warnings)

    def check_inputs(self) -> None:
        """Read what must be equal and refuse what is not: copied and tied tensors."""
        made = self._plan
        for model in self._unique_models():
            for alias, canonical in model.tied.items():
                if not same_bytes(model.tensors[alias], model.tensors[canonical]):
                    raise InputError(
                        f"{model.label}: tensors {alias!r} and {canonical!r} differ, but "
                        "config.json ties them (tie_word_embeddings); set that to false, or make "
                        "them equal"
                    )
        accept = made.config.constants()["integers"] == "base"
        for name in made.match.copied:
            first = made.template.tensors[name]
            for model in self._unique_models():
                other = model.tensors[name]
                if not accept and not same_bytes(first, other):
                    raise InputError(
                        f"{model.label}: tensor {name!r} is {other.dtype} and differs from that of "
                        f"{made.template.path}; integers are not merged: pass "
                        "--param integers=base to take the base's"
                    )

    def key(self) -> dict[str, Any]:
        """What the journal of a run must agree in for another to go on from there."""
        return {"plan": self._plan.to_json_dict(), "inputs": self._stamps}

    def write_tensors(self, directory: Path, journal: Journal) -> None:
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
        self._done = passes
        self._advance(made.bytes_moved)
        self._warn_overflows()

    def _open_files(self, directory: Path) -> dict[str, int]:
        """Open all inputs, make room for all outputs; the latters' numbers by name."""
        inputs = {path: self._core.open_to_read(path) for path in self._paths}
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
        self._works = self._plan.works(inputs, places)
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

    def _plan_to_read(self) -> _core.Plan:
        """A plan with the inputs open, numbered as in that of the merge."""
        plan = _core.Plan(True)
        for path in self._paths:
            plan.open_to_read(path)
        return plan

    def _is_dropped(self, job: int, expert: int) -> bool:
        """Whether the base stands for this expert's tensor."""
        work = self._works[job]
        return bool(self._dropped) and work.inputs[expert + 1] == work.inputs[0]

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

    def _warn_overflows(self) -> None:
        if self._plan.config.nonfinite == "warn":
            self.warnings += [
                objection
                for job, outcome in sorted(self._done.outcomes.items())
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

    def report(
        self, path: Path, auxiliary: list[Path], seconds: float, alpha: float | None
    ) -> MergeReport:
        """What was done, with fingerprints of everything that went in and came out."""
        made, passes = self._plan, self._done
        inputs = self._fingerprints()
        output = self._output_fingerprint()
        kept = passes.kept() if made.rule.gate is Gate.MAGNITUDE else None
        reports = []
        for e, expert in enumerate(made.experts):
            n_equal = self._n_equal_to_base(e) if made.has_base else 0
            reports.append(
                ModelReport(
                    path=str(expert.path),
                    fingerprint=inputs[e + made.has_base],
                    n_equal_to_base=n_equal,
                    dropped_layers=self._dropped[e] if self._dropped else [],
                    kept=kept[e] if kept else None,
                    kept_fraction=kept[e] / made.n_parameters
                    if kept and made.n_parameters
                    else None,
                    threshold=_magnitude(passes.model.found[e].bits)
                    if passes.model.found
                    else None,
                    coefficient=passes.model.weights[e] if passes.model.weights else None,
                )
            )
            if made.match.merged and n_equal == len(made.match.merged):
                self.warnings.append(
                    f"model {str(expert.path)!r}: all merged tensors equal the base's; its task "
                    "vector is zero and adds nothing (is it the base itself?)"
                )
        if made.has_base and output == inputs[0]:
            self.warnings.append("the result equals the base bit for bit")
        outcomes = passes.outcomes.values()
        conflicts = sum(outcome.conflicts for outcome in outcomes)
        read = made.bytes_surveyed + made.bytes_combined
        whole_model = made.rule.scope == "model" and made.rule.vote is not Vote.NONE
        return MergeReport(
            recipe=made.config.to_json_dict(),
            method=made.config.merge_method,
            semantics=made.config.semantics,
            base=ModelReport(str(made.template.path), inputs[0]) if made.has_base else None,
            experts=reports,
            output=OutputReport(
                path=str(path),
                fingerprint=output,
                files={s.name: len(made.header(s)[0]) + s.n_bytes for s in made.shards},
                n_bytes=made.bytes_written,
            ),
            tensors_merged=len(made.match.merged),
            tensors_copied=len(made.match.copied),
            tensors_tied=len(made.match.tied),
            parameters=made.n_parameters,
            sign_conflicts=conflicts,
            sign_conflict_fraction=conflicts / max(made.n_parameters, 1),
            cancellations=sum(outcome.cancellations for outcome in outcomes),
            majority_sign=passes.majority(passes.outcomes) if whole_model else None,
            combined_again=sum(outcome.n_repeated for outcome in outcomes),
            thresholds={
                self._works[job].name: [_magnitude(found.bits) for found in outcome.found]
                for job, outcome in sorted(passes.outcomes.items())
                if outcome.found and made.rule.gate is Gate.MAGNITUDE
            },
            coefficients={
                self._works[job].name: outcome.coefficients
                for job, outcome in sorted(passes.outcomes.items())
                if outcome.coefficients
            },
            alpha=alpha,
            auxiliary_files=[str(file) for file in auxiliary],
            warnings=self.warnings,
            bytes_read=read,
            bytes_written=made.bytes_written,
            seconds=seconds,
            gb_per_second=(read + made.bytes_written) / 1e9 / seconds,
            peak_memory_bytes=peak_memory_bytes(),
            threads=self._threads,
            target=_core.target(),
        )

    def _fingerprints(self) -> list[str]:
        """One per model, in the order of ``plan.models``."""
        made = self._plan
        found = []
        for i, model in enumerate(made.models):
            tensors = {}
            for job, work in enumerate(self._works):
                if work.name in model.tensors:
                    info = made.match.source(model, work.name)
                    dropped = i >= made.has_base and self._is_dropped(job, i - made.has_base)
                    lanes = content(info) if dropped else self._done.outcomes[job].inputs[i]
                    tensors[work.name] = tensor_fingerprint(info, lanes)
            for alias, canonical in {**made.match.tied, **model.tied}.items():
                if alias in model.tensors and canonical in tensors:
                    tensors[alias] = tensors[canonical]
            for name in made.match.copied:
                info = model.tensors[name]
                tensors[name] = tensor_fingerprint(info, content(info))
            found.append(model_fingerprint(tensors))
        return found

    def _output_fingerprint(self) -> str:
        made = self._plan
        tensors = {
            work.name: tensor_fingerprint(self._outputs[work.name], self._done.outcomes[job].output)
            for job, work in enumerate(self._works)
        }
        for alias, canonical in made.match.tied.items():
            tensors[alias] = tensors[canonical]
        for name in made.match.copied:
            copied = content(made.template.tensors[name])
            tensors[name] = tensor_fingerprint(self._outputs[name], copied)
        return model_fingerprint(tensors)

    def _n_equal_to_base(self, expert: int) -> int:
        def equal(job: int, work: Work) -> bool:
            outcome = self._done.outcomes[job]
            same_type = work.inputs[0][2] == work.inputs[expert + 1][2]
            same = same_type and outcome.inputs[0] == outcome.inputs[expert + 1]
            return same and not self._is_dropped(job, expert)

        return sum(equal(job, work) for job, work in enumerate(self._works))

    def _unique_models(self) -> Iterator[Model]:
        seen = set()
        for model in self._plan.models:
            if model.label not in seen:
                seen.add(model.label)
                yield model


def _remove_all(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _magnitude(bits: int | None) -> float | None:
    return None if bits is None else float_of(bits)
