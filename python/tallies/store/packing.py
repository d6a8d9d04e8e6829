"""``pack``: a base and its experts -> a store."""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import _core
from ..destination import Destination
from ..errors import InputError, StorageError, TalliesError
from ..files import (
    Writer,
    content,
    content_of,
    copy_out,
    model_fingerprint,
    nonfinite_objection,
    refuse_changed,
    same_tensor,
    stamps,
    tensor_fingerprint,
)
from ..headers import TensorInfo
from ..layout import parse_size
from ..matrix_passes import single_threads
from ..merging import Progress
from ..methods._spec import Blend, Gate, Rule, Vote
from ..native import (
    BLEND_CODES,
    DTYPE_CODES,
    GATE_CODES,
    KEEP_ALL,
    PACKED_BITS,
    VOTE_CODES,
    ZERO_SIGNS,
)
from ..passes import Passes
from ..resources import allow_open_files, peak_memory_bytes, tile_limits
from ..state_dicts import n_threads
from ..tying import tied_pairs
from ..work import Place, Work
from . import low_rank_files, sparse_files
from ._codec import Codec, Sums
from ._low_rank import LowRankCodec, s_name, v_name
from .lambdas import text
from .manifest import SHARED, Manifest, Task, Tensor
from .pack_plan import GRAIN, PackPlan, scale_name
from .report import PackReport, TaskReport
from .sparse import Sparse

_OTHER_BYTES = 1 << 20


def pack(
    base: str | os.PathLike[str],
    tasks: Mapping[str, str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    codec: str = "tall",
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    nonfinite: str = "error",
    integers: str = "equal",
    overwrite: bool = False,
    sync: bool = False,
    progress: Progress | None = None,
    **parameters: Any,
) -> PackReport:
    """Pack experts of one base into the new directory ``out``: a store that ``Store.open`` reads.

    ``tasks`` maps names to checkpoints; ``parameters`` are the codec's (``tallies methods`` shows
    them). Tensors that no task changed are left to the base.
    Task vectors are float32, sums run in the order of the tasks, masks are made from the unrounded
    shared vector. NaN and infinite values are refused unless ``nonfinite`` is "propagate";
    integers and booleans must be the base's unless ``integers`` is "base".

    Raises InputError when the request or an input is wrong, before anything is written;
    StorageError when reading or writing fails. ``out`` appears by a rename when it is complete.

    >>> tallies.pack("base", {"math": "a", "code": "b"}, "store")  # doctest: +SKIP
    """
    start = time.perf_counter()
    made = PackPlan.make(base, tasks, codec, parameters, integers)
    limits = tile_limits(max_memory, n_threads(threads))
    if issubclass(made.codec, LowRankCodec):
        low_rank_files.refuse_too_large(
            codec, made.base.tensors, made.masked, parse_size(max_memory)
        )
    if nonfinite not in ("error", "propagate"):
        raise InputError(f"nonfinite: found {nonfinite!r}, expected 'error' or 'propagate'")
    destination = Destination(out, made.roots(), overwrite)
    try:
        destination.check_space(made.n_bytes + _OTHER_BYTES)
        allow_open_files(len(made.input_files()) + len(made.masks) + 1)
        run = _run_of(made.codec)(made, limits, progress, stop_at_overflow=nonfinite == "error")
        with destination.writing(resume=False, sync=sync) as directory:
            manifest = run.write(directory)
            run.check_unchanged()
            manifest.write(directory)
            run.finish_progress()
    except OSError as error:
        if isinstance(error, TalliesError):
            raise
        place = error.filename or destination.path
        raise StorageError(f"{place}: {error.strerror or error}") from error
    return run.report(destination.path, manifest, time.perf_counter() - start, n_threads(threads))


class _Run:
    """One packing: the open files, the passes and what they found out."""

    def __init__(
        self,
        made: PackPlan,
        limits: _core.Limits,
        progress: Progress | None,
        *,
        stop_at_overflow: bool,
    ) -> None:
        self._plan = made
        self._limits = limits
        self._progress = progress
        self._stop = stop_at_overflow
        self._stamps = stamps([Path(path) for path in made.input_files()])
        self._moved = 0
        self._checksums: dict[str, dict[str, str]] = {}
        self._file_bytes: dict[str, int] = {}
        self._prints: list[dict[str, str]] = [{} for _ in range(len(made.tasks) + 1)]
        self.warnings: list[str] = []

    def write(self, directory: Path) -> Manifest:
        """Write all files; what the manifest is to say about them."""
        made = self._plan
        floors, zero_sign = self._survey()
        core = _core.Plan(True)
        inputs = {path: core.open_to_read(path) for path in made.input_files()}
        outputs = self._open_outputs(core, directory)
        rules = []
        for job, name in enumerate(made.masked):
            core.add_job(
                made.base.tensors[name].n_elements,
                self._inputs(name, inputs),
                self._outputs(name, outputs),
                apart=True,
                grain=GRAIN,
            )
            rules.append(self._rule(job, name, floors, zero_sign))
        results = self._pack(core, rules)
        self._note(results)
        scales = self._scales(core, outputs, results)
        self._copy_dense(core, outputs)
        self._note_unpacked()
        n_set = [sum(result.n_set[i] for result in results) for i in range(len(made.masks))]
        return self._manifest(n_set, scales)

    def _open_outputs(self, core: _core.Plan, directory: Path) -> dict[str, int]:
        """Make room for all files and write their headers; their numbers by name."""
        made = self._plan
        outputs = {}
        for file in made.files:
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            path = os.fspath(directory / file)
            self._checksums[file] = {}
            self._file_bytes[file] = made.file_bytes(file)
            outputs[file] = core.open_to_write(path, made.file_bytes(file))
            core.write(outputs[file], made.headers[file][0], 0)
        return outputs

    def _survey(self) -> tuple[list[int], int]:
        """The floors of the magnitudes that stay, by task, and the sign of a vote of zero."""
        made = self._plan
        n_tasks = len(made.tasks)
        zero = ZERO_SIGNS[made.rule.zero] if made.rule is not None else 0
        density = made.codec.ranked_density(made.parameters)
        if density is None or not made.masked:
            return [KEEP_ALL] * n_tasks, zero
        elects = made.rule is not None and made.rule.vote is not Vote.NONE
        rule = (
            made.rule
            if elects and made.rule
            else Rule(Gate.MAGNITUDE, Vote.SUM, Blend.SUM_OF_AGREEING)
        )
        core = _core.Plan(True)
        inputs = {path: core.open_to_read(path) for path in made.input_files()}
        works = [
            Work(
                name=name,
                n_elements=made.base.tensors[name].n_elements,
                inputs=tuple(self._inputs(name, inputs)),
                outputs=(),
                weights=(1.0,) * n_tasks,
                densities=(density,) * n_tasks,
                scale=1.0,
                n_input_bytes=0,
            )
            for name in made.masked
        ]
        passes = Passes(core, works, rule, "paper", self._limits, labels=list(made.tasks))
        passes.survey_model()
        if elects:
            everything = range(len(works))
            passes.combine(everything)
            zero = passes.majority(everything)
        return [found.floor for found in passes.model.found], zero

    def _inputs(self, name: str, files: Mapping[str, int]) -> list[Place]:
        return [
            (files[os.fspath(one.path)], one.offset, DTYPE_CODES[one.dtype])
            for one in self._plan.sources(name)
        ]

    def _outputs(self, name: str, outputs: Mapping[str, int]) -> list[Place]:
        made = self._plan
        places = []
        if made.rule is not None:
            shared = made.places[SHARED][name]
            places.append((outputs[SHARED], shared.offset, DTYPE_CODES[shared.dtype]))
        for _, _, file in made.masks:
            places.append((outputs[file], made.places[file][name].offset, PACKED_BITS))
        return places

    def _rule(self, job: int, name: str, floors: Sequence[int], zero: int) -> _core.PackRule:
        n_elements = self._plan.base.tensors[name].n_elements
        n_tasks = len(self._plan.tasks)
        lambdas = [value for _, value, _ in self._plan.masks if value is not None]
        cutoffs = [n_elements] * n_tasks
        shared = _core.JobRule(
            job, 0, n_elements, [1.0] * n_tasks, floors, cutoffs, 1.0, 1.0, zero, -1
        )
        return _core.PackRule(shared, lambdas)

    def _pack(self, core: _core.Plan, rules: list[_core.PackRule]) -> list[_core.PackResult]:
        made = self._plan
        rule, mask = made.rule, made.codec.mask
        assert mask is not None
        results = _core.pack(
            core,
            rules,
            (GATE_CODES[rule.gate], VOTE_CODES[rule.vote], BLEND_CODES[rule.blend])
            if rule
            else None,
            mask.value,
            made.codec.with_sums,
            self._stop,
            self._limits,
            self._advance if self._progress else None,
        )
        for job, result in enumerate(results):
            # Without a shared vector only the sums of magnitudes show what is not finite.
            if self._stop and (result.overflow or not all(map(math.isfinite, result.sums))):
                raise InputError(self._objection(core, job))
        return results

    def _objection(self, core: _core.Plan, job: int) -> str:
        made = self._plan
        name = made.masked[job]
        for i, one in enumerate(made.sources(name)):
            if objection := nonfinite_objection(one, *core.find_nonfinite(job, i, self._limits)):
                return objection
        dtype = made.places[SHARED][name].dtype if made.rule else "F32"
        return (
            f"tensor {name!r}: the shared vector overflows {dtype}; pass --param shared_dtype=F32, "
            "or --nonfinite propagate"
        )

    def _advance(self, n_bytes: int) -> None:
        whole = self._plan.bytes_read + self._plan.n_bytes
        self._moved += n_bytes
        if self._progress is not None:
            self._progress(min(self._moved, whole), whole)

    def finish_progress(self) -> None:
        """Report what no pass moved, such as headers."""
        self._advance(self._plan.bytes_read + self._plan.n_bytes - self._moved)

    def _note(self, results: Sequence[_core.PackResult]) -> None:
        """Checksums of what was written, and fingerprints of what was read."""
        made = self._plan
        files = ([SHARED] if made.rule is not None else []) + [file for _, _, file in made.masks]
        for name, result in zip(made.masked, results, strict=True):
            for file, lanes in zip(files, result.outputs, strict=True):
                self._checksums[file][name] = tensor_fingerprint(made.places[file][name], lanes)
            for one, lanes, prints in zip(
                made.sources(name), result.inputs, self._prints, strict=True
            ):
                prints[name] = tensor_fingerprint(one, lanes)

    def _scales(
        self, core: _core.Plan, outputs: Mapping[str, int], results: Sequence[_core.PackResult]
    ) -> list[float]:
        """The factor of each task; where each matrix has its own, write those."""
        made = self._plan
        sums = [
            Sums(made.base.tensors[name].n_elements, result.sums, result.sums_in_mask)
            for name, result in zip(made.masked, results, strict=True)
        ]
        if made.rule is not None:
            return made.codec.scales(made.parameters, sums, len(made.tasks))
        for name, one in zip(made.masked, sums, strict=True):
            for (_, _, file), total in zip(made.masks, one.x, strict=True):
                data = struct.pack("<f", total / max(one.n_elements, 1))
                info = made.places[file][scale_name(name)]
                core.write(outputs[file], data, info.offset)
                self._checksums[file][info.name] = tensor_fingerprint(info, content_of(data))
        return [1.0] * len(made.tasks)

    def _copy_dense(self, core: _core.Plan, outputs: Mapping[str, int]) -> None:
        """Write the tensors that are kept as they are."""
        made = self._plan
        for i, (_, _, file) in enumerate(made.masks):
            for name in made.dense:
                one = made.sources(name)[1 + i]
                if self._stop:
                    self._refuse_nonfinite(one)
                place = made.places[file][name]
                write = Writer(core, outputs[file], place.offset)
                self._checksums[file][name] = tensor_fingerprint(place, copy_out(one, write))

    def _refuse_nonfinite(self, one: TensorInfo) -> None:
        core = _core.Plan(False)
        place = (core.open_to_read(os.fspath(one.path)), one.offset, DTYPE_CODES[one.dtype])
        core.add_job(one.n_elements, [place], [])
        if objection := nonfinite_objection(one, *core.find_nonfinite(0, 0, self._limits)):
            raise InputError(objection)

    def _note_unpacked(self) -> None:
        """Fingerprints of what no pass read, so that whole models have one."""
        made = self._plan
        models = (made.base, *made.tasks.values())
        for name in (*made.match.merged, *made.match.copied):
            for one, prints in zip(made.sources(name), self._prints, strict=True):
                if name in prints:
                    continue
                frozen = made.kind(name) == "frozen" and name in self._prints[0]
                prints[name] = (
                    self._prints[0][name] if frozen else tensor_fingerprint(one, content(one))
                )
        for model, prints in zip(models, self._prints, strict=True):
            for alias, canonical in tied_pairs(model):
                if canonical in prints:
                    prints.setdefault(alias, prints[canonical])

    def _manifest(self, n_set: Sequence[int], scales: Sequence[float]) -> Manifest:
        made = self._plan
        base_prints, *task_prints = self._prints
        tasks = {}
        for i, (name, checkpoint) in enumerate(made.tasks.items()):
            own = [(n, mask) for n, mask in zip(n_set, made.masks, strict=True) if mask[0] == name]
            several = made.lambdas.n_per_task > 1
            tasks[name] = Task(
                source=os.path.abspath(checkpoint.path),
                fingerprint=model_fingerprint(task_prints[i]),
                scale=scales[i],
                mask_lambda=None if several else own[0][1][1],
                n_set={text(value): n for n, (_, value, _) in own},
                file=None if several else own[0][1][2],
                candidates={text(value): file for _, (_, value, file) in own} if several else {},
            )
        return Manifest(
            codec=made.codec.name,
            parameters=dict(made.parameters),
            base_path=os.path.abspath(made.base.path),
            base_fingerprint=model_fingerprint(base_prints),
            tensors={
                name: Tensor(
                    one.dtype,
                    one.shape,
                    made.kind(name),
                    base_prints[name],
                    made.match.tied.get(name),
                )
                for name, one in made.base.tensors.items()
            },
            tasks=tasks,
            checksums={file: dict(sorted(sums.items())) for file, sums in self._checksums.items()},
        )

    def check_unchanged(self) -> None:
        """Raise StorageError if an input changed while it was being read."""
        refuse_changed(self._stamps)

    def report(self, path: Path, manifest: Manifest, seconds: float, threads: int) -> PackReport:
        """What was done."""
        made = self._plan
        for name, task in made.tasks.items():
            if manifest.tasks[name].fingerprint == manifest.base_fingerprint:
                self.warnings.append(f"task {name!r}: {task.path} equals the base bit for bit")
        base_bytes, expert_bytes = made.base.n_bytes, sum(t.n_bytes for t in made.tasks.values())
        n_trained = made.n_masked + sum(made.base.tensors[n].n_elements for n in made.dense)
        n_all = sum(
            one.n_elements for n, one in made.base.tensors.items() if n not in made.match.tied
        )
        return PackReport(
            path=str(path),
            codec=manifest.codec,
            parameters=manifest.parameters,
            base=str(made.base.path),
            base_fingerprint=manifest.base_fingerprint,
            tasks=[
                TaskReport(
                    name=name,
                    source=task.source,
                    fingerprint=task.fingerprint,
                    scale=task.scale,
                    set_fraction={
                        key: n / made.n_masked if made.n_masked else 0.0
                        for key, n in task.n_set.items()
                    },
                    n_bytes=sum(
                        self._file_bytes[file]
                        for file in ([task.file] if task.file else task.candidates.values())
                    ),
                )
                for name, task in manifest.tasks.items()
            ],
            tensors_masked=len(made.masked),
            tensors_dense=len(made.dense),
            tensors_frozen=len(made.frozen),
            tensors_copied=sum(made.kind(n) == "copied" for n in made.base.tensors),
            parameters_masked=made.n_masked,
            parameters_trained=n_trained,
            parameters_frozen=n_all - n_trained,
            n_bytes=sum(self._file_bytes.values()),
            base_bytes=base_bytes,
            expert_bytes=expert_bytes,
            has_shared=made.rule is not None,
            warnings=self.warnings,
            bytes_read=made.bytes_read,
            seconds=seconds,
            gb_per_second=(made.bytes_read + sum(self._file_bytes.values())) / 1e9 / seconds,
            peak_memory_bytes=peak_memory_bytes(),
            threads=threads,
            target=_core.target(),
        )


class _SparseRun(_Run):
    """The same where each task is packed by itself, into a file whose size only its data tell."""

    def write(self, directory: Path) -> Manifest:
        made = self._plan
        n_set = []
        for i, (_, _, file) in enumerate(made.masks):
            # What the task itself changed: its file does not depend on the others.
            sources = {name: made.sources(name) for name in made.masked}
            own = {
                name: one[0] for name, one in sources.items() if not same_tensor(one[0], one[1 + i])
            }
            packed = sparse_files.pack(
                own,
                {name: sources[name][1 + i] for name in own},
                directory / file,
                made.parameters,
                self._limits,
                refuse_nonfinite=self._stop,
                progress=self._advance if self._progress else None,
            )
            self._checksums[file] = packed.checksums
            self._file_bytes[file] = packed.n_bytes
            self._prints[0].update(packed.base)
            self._prints[1 + i].update(packed.expert)
            n_set.append(sum(packed.n_set.values()))
        self._note_unpacked()
        return self._manifest(n_set, [1.0] * len(made.masks))


class _LowRankRun(_Run):
    """The same where matrices are factored, one at a time, all tasks together."""

    def write(self, directory: Path) -> Manifest:
        made = self._plan
        core = _core.Plan(True)
        inputs = {path: core.open_to_read(path) for path in made.input_files()}
        outputs = self._open_outputs(core, directory)
        for name in made.masked:
            core.add_job(made.base.tensors[name].n_elements, self._inputs(name, inputs), [])
        n_set = [0] * len(made.masks)
        with single_threads(1) as pool:
            for job, name in enumerate(made.masked):
                factored = pool.submit(self._factor, core, job, name).result()
                self._store(core, outputs, name, factored)
                for i, (_, _, file) in enumerate(made.masks):
                    parts = (name, s_name(name), v_name(name))
                    n_set[i] += sum(made.places[file][part].n_elements for part in parts)
        self._copy_dense(core, outputs)
        self._note_unpacked()
        return self._manifest(n_set, [1.0] * len(made.tasks))

    def _factor(self, core: _core.Plan, job: int, name: str) -> low_rank_files.Factored:
        made = self._plan
        place = made.places[made.masks[0][2]][name]
        has_shared = made.rule is not None
        try:
            return low_rank_files.factor(
                core,
                job,
                made.base.tensors[name].shape,
                len(made.tasks),
                place.shape[1],
                place.dtype,
                made.parameters["scale"] if has_shared else None,
                made.places[SHARED][name].dtype if has_shared else "F32",
                self._stop,
                self._limits,
                self._advance if self._progress else None,
            )
        except ValueError:
            raise InputError(self._objection(core, job)) from None

    def _store(
        self,
        core: _core.Plan,
        outputs: Mapping[str, int],
        name: str,
        factored: low_rank_files.Factored,
    ) -> None:
        made = self._plan

        def put(file: str, part: str, data: bytes) -> None:
            info = made.places[file][part]
            core.write(outputs[file], data, info.offset)
            self._checksums[file][part] = tensor_fingerprint(info, content_of(data))

        if factored.shared is not None:
            put(SHARED, name, factored.shared)
        for (_, _, file), parts in zip(made.masks, factored.factors, strict=True):
            for part, data in zip((name, s_name(name), v_name(name)), parts, strict=True):
                put(file, part, data)
        for one, lanes, prints in zip(
            made.sources(name), factored.prints, self._prints, strict=True
        ):
            prints[name] = tensor_fingerprint(one, lanes)


def _run_of(codec: type[Codec]) -> type[_Run]:
    if issubclass(codec, LowRankCodec):
        return _LowRankRun
    return _SparseRun if codec is Sparse else _Run
