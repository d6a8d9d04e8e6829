"""``merge``: recipe -> match -> plan -> passes -> report."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import _core
from .checkpoint import TensorInfo
from .destination import Destination
from .errors import InputError, StorageError, TalliesError
from .files import (
    chunks,
    content,
    model_fingerprint,
    same_bytes,
    stamps,
    tensor_fingerprint,
)
from .journal import Journal
from .layout import INDEX_NAME, parse_size
from .match import Model
from .methods._spec import Gate
from .passes import Outcome, Passes, Work
from .planning import MergePlan, index_file, plan
from .recipe import MergeConfig
from .report import MergeReport, ModelReport, OutputReport
from .state_dicts import n_threads

REPORT_NAME = "tallies.json"

Progress = Callable[[int, int], object]
"""Called with the bytes moved so far and the bytes to move in all."""

# A tile and its scratch take about four times the buffer; the rest of the budget is what the
# histograms of the survey, the plan and the interpreter take.
_BUFFER_SHARE = 8
_LEAST_BUFFER_BYTES = 1 << 16
_MOST_BUFFER_BYTES = 1 << 24


def merge(
    config: str | os.PathLike[str] | Mapping[str, Any] | MergeConfig,
    out: str | os.PathLike[str],
    *,
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    device: str = "cpu",
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
    ``threads`` is None for all cores. Neither changes a byte of the result. ``max_shard_size``,
    ``seed``, ``nonfinite`` ("error", "warn" or "propagate" infinite and NaN values) and ``semantics``
    replace what the recipe says unless left at their defaults.

    Inputs are widened to float32, sums run in float32 in the order of the experts, and each result is
    rounded once, to nearest even. ``out`` appears by a rename when it is complete. A run that failed
    or was killed leaves nothing in its place; with ``resume`` it keeps its finished files for the
    next run with ``resume``. ``sync`` flushes the files to disk first, for power failures.

    Raises InputError when the request or an input is wrong, before anything is written to ``out``;
    StorageError when reading or writing fails.

    >>> tallies.merge("ties.yml", "merged").experts[0].kept_fraction  # doctest: +SKIP
    0.2000000012
    """
    if device != "cpu":
        raise InputError(f"device: found {device!r}, expected 'cpu'; this build has no CUDA kernels")
    request = MergeConfig.load(config).replace(
        seed=seed or None,
        nonfinite=None if nonfinite == "error" else nonfinite,
        semantics=None if semantics == "paper" else semantics,
        max_shard_size=None if max_shard_size == "5GB" else max_shard_size,
    )
    start = time.perf_counter()
    made = plan(request)
    destination = Destination(out, made.input_roots(), overwrite)
    run = _Run(made, _limits(max_memory, n_threads(threads)), n_threads(threads), progress)
    run.check_inputs()
    auxiliary = _auxiliary(made)
    destination.check_space(
        made.bytes_written + sum((made.donor.path / path).stat().st_size for path in auxiliary)
    )
    directory = destination.open(resume)
    try:
        run.write_tensors(directory, resume, sync)
        for path in auxiliary:
            _copy_file(made.donor.path / path, directory / path)
        run.check_unchanged()
        report = run.report(destination.path, auxiliary, time.perf_counter() - start)
        (directory / REPORT_NAME).write_text(report.to_json())
        run.journal.remove()
        destination.publish(sync)
    except BaseException as error:
        if resume:
            destination.leave()
        else:
            destination.discard()
        if isinstance(error, OSError) and not isinstance(error, TalliesError):
            raise StorageError(f"{error.filename or directory}: {error.strerror}") from error
        raise
    return report


class _Run:
    """One merge: the open files, the passes and what they found out."""

    def __init__(
        self, made: MergePlan, limits: _core.Limits, threads: int, progress: Progress | None
    ) -> None:
        self._plan = made
        self._limits = limits
        self._threads = threads
        self._progress = progress
        self._moved = 0
        self._core = _core.Plan(made.has_base)
        self._works: list[Work] = []
        self._outputs: dict[str, tuple[int, int]] = {}
        self._paths = made.input_files()
        self._stamps = stamps([Path(path) for path in self._paths])
        self._contents: dict[tuple[str, str], list[int]] = {}
        self.warnings: list[str] = list(made.warnings)

    def check_inputs(self) -> None:
        """Read what must be equal and refuse what is not: copied and tied tensors."""
        made = self._plan
        for model in self._unique_models():
            for alias, canonical in model.tied.items():
                if not same_bytes(model.tensors[alias], model.tensors[canonical]):
                    raise InputError(
                        f"{model.label}: tensors {alias!r} and {canonical!r} differ, but config.json "
                        "ties them (tie_word_embeddings); set that to false, or make them equal"
                    )
        accept = made.config.constants()["integers"] == "base"
        for name in made.match.copied:
            first = made.template.tensors[name]
            for model in self._unique_models():
                other = model.tensors[name]
                if not accept and not same_bytes(first, other):
                    raise InputError(
                        f"{model.label}: tensor {name!r} is {other.dtype} and differs from that of "
                        f"{made.template.path}; integers are not merged: pass --param integers=base "
                        "to take the base's"
                    )

    def write_tensors(self, directory: Path, resume: bool, sync: bool) -> None:
        """Write every tensor file and the index."""
        made = self._plan
        self.journal = Journal(
            directory, {"plan": made.to_json_dict(), "inputs": self._stamps, "format": 1}
        )
        if not (resume and self.journal.load()):
            _remove_all(directory)
        self._open_files(directory)
        passes = self._passes()
        self._restore(passes)
        if passes.by_model and not passes.survey and self._works:
            passes.survey_model()
            self.journal.survey = passes.survey
            self.journal.save()
        number = {work.name: job for job, work in enumerate(self._works)}
        for shard in made.shards:
            if shard.name in self.journal.finished:
                continue
            jobs = [number[name] for name, _, _ in shard.tensors if name in number]
            passes.combine(jobs)
            self._copy_tensors([name for name, _, _ in shard.tensors])
            self.journal.finished[shard.name] = {job: passes.outcomes[job] for job in jobs}
            self.journal.save()
        passes.settle_majority()
        if (index := index_file(made.shards)) is not None:
            (directory / INDEX_NAME).write_bytes(index)
        if sync:
            for file, _ in {file: None for file, _ in self._outputs.values()}.items():
                self._core.sync(file)
        self._done = passes
        self._warn_overflows()

    def _open_files(self, directory: Path) -> None:
        _raise_file_limit(len(self._paths) + len(self._plan.shards) + 64)
        inputs = {path: self._core.open_to_read(path) for path in self._paths}
        for shard in self._plan.shards:
            head, offsets = self._plan.header(shard)
            file = self._core.open_to_write(
                os.fspath(directory / shard.name), len(head) + shard.n_bytes
            )
            self._core.write(file, head, 0)
            for (name, _, _), offset in zip(shard.tensors, offsets, strict=True):
                self._outputs[name] = (file, offset)
        self._works = self._plan.works(inputs, self._outputs)

    def _passes(self) -> Passes:
        stop = self._plan.config.nonfinite == "error"

        def refuse(job: int) -> None:
            raise InputError(self._culprit(job))

        return Passes(
            self._core,
            self._works,
            self._plan.rule,
            self._plan.config.semantics,
            self._limits,
            labels=self._plan.labels,
            fingerprints=True,
            stop_at_overflow=stop,
            report_overflow=refuse if stop else None,
            progress=self._advance if self._progress else None,
        )

    def _restore(self, passes: Passes) -> None:
        passes.survey = self.journal.survey
        for outcomes in self.journal.finished.values():
            passes.outcomes.update(outcomes)

    def _advance(self, n_bytes: int) -> None:
        made = self._plan
        whole = made.bytes_surveyed + made.bytes_combined + made.bytes_written
        self._moved += n_bytes
        if self._progress is not None:
            self._progress(min(self._moved, whole), whole)

    def _culprit(self, job: int) -> str:
        """Which input made a tensor's result infinite or NaN."""
        name = self._works[job].name
        for i, model in enumerate(self._plan.models):
            count, first = self._core.find_nonfinite(job, i, self._limits)
            if count:
                info = self._plan.match.source(model, name)
                return (
                    f"{info.path}: tensor {name!r} has {count} NaN or infinite values, the first at "
                    f"element {first}, expected finite ones; repair the model, or pass "
                    "--nonfinite propagate"
                )
        dtype = dict((n, d) for shard in self._plan.shards for n, d, _ in shard.tensors)[name]
        return (
            f"tensor {name!r}: merged values overflow {dtype}; lower the scale or the weights, "
            "write a wider --out-dtype, or pass --nonfinite propagate"
        )

    def _warn_overflows(self) -> None:
        if self._plan.config.nonfinite == "warn":
            self.warnings += [
                self._culprit(job)
                for job, outcome in sorted(self._done.outcomes.items())
                if outcome.overflow
            ]

    def _copy_tensors(self, names: list[str]) -> None:
        for name in names:
            if self._plan.action(name) != "copy":
                continue
            info = self._plan.template.tensors[name]
            file, offset = self._outputs[name]
            first = 0
            for chunk in chunks(info):
                self._core.write(file, bytes(chunk), offset + first)
                first += len(chunk)

    def check_unchanged(self) -> None:
        """Raise StorageError if an input changed while it was being read."""
        for path, stamp in stamps([Path(path) for path in self._paths]).items():
            if stamp != self._stamps[path]:
                raise StorageError(
                    f"{path}: changed while it was being read (from {self._stamps[path][0]} to "
                    f"{stamp[0]} bytes, or its time); merge again when nothing writes to it"
                )

    def report(self, path: Path, auxiliary: list[Path], seconds: float) -> MergeReport:
        """What was done, with fingerprints of everything that went in and came out."""
        made, passes = self._plan, self._done
        inputs = self._fingerprints()
        output = self._output_fingerprint()
        kept = passes.kept() if made.rule.gate is not Gate.ALL else None
        reports = []
        for e, expert in enumerate(made.experts):
            n_equal = self._n_equal_to_base(e) if made.has_base else 0
            reports.append(
                ModelReport(
                    path=str(expert.path),
                    fingerprint=inputs[e + made.has_base],
                    n_equal_to_base=n_equal,
                    kept=kept[e] if kept else None,
                    kept_fraction=kept[e] / made.n_parameters if kept and made.n_parameters else None,
                    threshold=_magnitude(passes.survey[e].bits) if passes.survey else None,
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
        whole_model = made.rule.scope == "model" and made.rule.gate is Gate.MAGNITUDE
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
            combined_again=passes.n_combined_again,
            thresholds={
                self._works[job].name: [_magnitude(found.bits) for found in outcome.found]
                for job, outcome in sorted(passes.outcomes.items())
                if outcome.found
            },
            auxiliary_files=[str(file) for file in auxiliary],
            warnings=self.warnings,
            bytes_read=read,
            bytes_written=made.bytes_written,
            seconds=seconds,
            gb_per_second=(read + made.bytes_written) / 1e9 / seconds,
            peak_memory_bytes=_peak_memory_bytes(),
            threads=self._threads,
            target=_core.target(),
        )

    def _fingerprints(self) -> list[str]:
        """One per model, in the order of ``plan.models``."""
        made = self._plan
        found = []
        for i, model in enumerate(made.models):
            tensors = {
                work.name: tensor_fingerprint(
                    made.match.source(model, work.name), self._done.outcomes[job].inputs[i]
                )
                for job, work in enumerate(self._works)
            }
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
        faces = {
            name: TensorInfo(name, dtype, tuple(shape), Path(), 0, 0)
            for shard in made.shards
            for name, dtype, shape in shard.tensors
        }
        tensors = {
            work.name: tensor_fingerprint(faces[work.name], self._done.outcomes[job].output)
            for job, work in enumerate(self._works)
        }
        for alias, canonical in made.match.tied.items():
            tensors[alias] = tensors[canonical]
        for name in made.match.copied:
            tensors[name] = tensor_fingerprint(faces[name], content(made.template.tensors[name]))
        return model_fingerprint(tensors)

    def _n_equal_to_base(self, expert: int) -> int:
        def equal(outcome: Outcome, work: Work) -> bool:
            same_type = work.inputs[0][2] == work.inputs[expert + 1][2]
            return same_type and outcome.inputs[0] == outcome.inputs[expert + 1]

        return sum(equal(self._done.outcomes[job], work) for job, work in enumerate(self._works))

    def _unique_models(self) -> Iterator[Model]:
        seen = set()
        for model in self._plan.models:
            if model.label not in seen:
                seen.add(model.label)
                yield model


def _limits(max_memory: str | int, threads: int) -> _core.Limits:
    share = parse_size(max_memory) // (_BUFFER_SHARE * threads)
    return _core.Limits(threads, min(max(share, _LEAST_BUFFER_BYTES), _MOST_BUFFER_BYTES))


def _auxiliary(made: MergePlan) -> list[Path]:
    return [path for path in made.donor.auxiliary_files() if str(path) != REPORT_NAME]


def _copy_file(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise StorageError(f"{source}: cannot be copied: {error.strerror}") from None


def _remove_all(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _raise_file_limit(n_files: int) -> None:
    """All inputs stay open: 64 experts of 30 files exceed the usual soft limit of 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < n_files:
        wanted = n_files if hard == resource.RLIM_INFINITY else min(n_files, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _magnitude(bits: int | None) -> float | None:
    return None if bits is None else float(struct.unpack("<f", struct.pack("<I", bits))[0])


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
