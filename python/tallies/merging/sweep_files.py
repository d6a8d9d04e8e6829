"""Writes the candidates of a sweep, each a whole checkpoint, all or nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.destination import Destination
from ..checkpoint.occupied import SWEEP_NAME
from ..engine import device as accelerate
from ..engine.bar import is_bar
from ..engine.files import PlanFiles
from ..engine.limits import allow_open_files, n_threads, too_little
from ..engine.page_cache import io_code
from ..engine.usage import Advance, Progress, measure
from ..methods._matrix import MatrixMethod
from ..recipe.config import MergeConfig
from ..sizes import parse_size
from .checks import check_inputs
from .finishing import bytes_needed, check_memory, complete
from .journal import Journal
from .report import MergeReport
from .result import MergeResult
from .run import MergeRun
from .sweep_grid import Candidate, candidates, families, settings_of, told
from .sweep_report import SweepReport
from .sweep_run import bytes_moved, bytes_read, run_together


def write_sweep(
    config: MergeConfig,
    grid: Mapping[str, Sequence[Any]],
    out: str | os.PathLike[str],
    *,
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    device: str = "cpu",
    max_vram: str | int = "4GiB",
    resume: bool = False,
    overwrite: bool = False,
    sync: bool = False,
    io: str = "auto",
    progress: Progress = None,
) -> SweepReport:
    """Merge all candidates of a grid into directories of ``out``; arguments as for ``sweep``.

    Raises:
        InputError: The request, the grid or an input is wrong.
        StorageError: Reading or writing fails.
    """
    start = time.perf_counter()
    settings = settings_of(grid)
    inputs = config.pinned().inputs()
    inputs.fetch_opaque(bars=is_bar(progress))
    made = candidates(config, settings)
    destination = _destination(out, made, overwrite)
    if inputs.fetch(bars=is_bar(progress)):
        made = candidates(config, settings)
    job = _Sweep(made, parse_size(max_memory), n_threads(threads), device, parse_size(max_vram), io)
    if resume:
        destination.refuse_busy()
    with destination.writing(resume, sync) as directory:
        reports = job.write(directory, destination, start, progress)
        report = SweepReport(
            path=str(destination.path),
            names=[one.name for one in made],
            settings=[one.settings for one in made],
            reports=reports,
            n_reads=len(job.groups),
            notes=told(job.groups),
            **measure(
                start, job.bytes_read, job.bytes_written, n_threads(threads), job.bytes_direct
            ),
        )
        (directory / SWEEP_NAME).write_text(report.file_text(directory), encoding="utf-8")
    return report


def _destination(
    out: str | os.PathLike[str], made: Sequence[Candidate], overwrite: bool
) -> Destination:
    """Return the place of all results, which has room for them."""
    read = {os.fspath(one) for each in made for one in each.plan.input_roots()}
    read |= {os.fspath(one) for each in made for one in each.plan.input_files()}
    destination = Destination(out, sorted(read), overwrite)
    destination.check_space(sum(bytes_needed(one.plan) for one in made))
    return destination


class _Sweep:
    def __init__(
        self,
        made: Sequence[Candidate],
        max_bytes: int,
        threads: int,
        device: str,
        max_vram: int,
        io: str,
    ) -> None:
        self._made, self._threads, self._max_bytes = made, threads, max_bytes
        self.groups = families(made)
        self.bytes_read = sum(bytes_read(_plans(group)) for group in self.groups)
        self.bytes_written = sum(one.plan.bytes_written for one in made)
        for group in self.groups:
            for one in group:
                check_memory(one.plan, max_bytes, threads, len(group))
        first = made[0].plan
        inputs = {path for one in made for path in one.plan.input_files()}
        self._limits, self._on_cpu = accelerate.limits(
            device,
            max_bytes,
            max_vram,
            threads,
            first.rule,
            len(first.labels),
            io_code(io, inputs),
        )
        allow_open_files(2 * len(inputs) + sum(len(one.plan.shards) for one in made))

    @property
    def bytes_direct(self) -> int:
        """Bytes that were read past the page cache."""
        return self._limits.bytes_direct

    def write(
        self, directory: Path, destination: Destination, start: float, progress: Progress
    ) -> list[MergeReport]:
        """Write all candidates, group by group, and return their reports in order."""
        names = {one.name for one in self._made}
        for path in directory.iterdir():
            if path.name not in names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        moved = Advance(progress, sum(bytes_moved(_plans(group)) for group in self.groups))
        reports: dict[str, MergeReport] = {}
        for group in self.groups:
            check_inputs(group[0].plan)
            written = self._run(group, directory, destination, moved)
            for one, (result, run) in zip(group, written, strict=True):
                place = destination.path / one.name
                reports[one.name] = complete(
                    result, directory / one.name, place, start, self._threads, {}
                )
                run.check_unchanged()
        moved.finish()
        return [reports[one.name] for one in self._made]

    def _run(
        self,
        group: Sequence[Candidate],
        directory: Path,
        destination: Destination,
        moved: Advance,
    ) -> list[tuple[MergeResult, MergeRun]]:
        def run(number: int, files: PlanFiles | None) -> tuple[MergeResult, MergeRun]:
            one = group[number]
            own = directory / one.name
            own.mkdir(exist_ok=True)
            journals = destination.workspace / "journals" / one.name
            journals.mkdir(parents=True, exist_ok=True)
            # A shared pass tells of its bytes itself.
            steps = None if files else _steps(moved)
            merge = MergeRun(one.plan, self._limits, self._threads, self._max_bytes, steps, files)
            little = too_little(self._max_bytes, self._threads)
            merge.warnings += filter(None, [self._on_cpu, little])
            key = merge.key()
            if files is not None:
                # Guesses of another group are others.
                key["together"] = [one.settings for one in group]
            return merge.write_tensors(own, Journal(journals, key)), merge

        if len(group) == 1 or issubclass(group[0].plan.config.method, MatrixMethod):
            return [run(number, None) for number in range(len(group))]
        return run_together(_plans(group), run, moved if moved else None)


def _steps(moved: Advance) -> Progress:
    """Return the progress of one merge, which counts its own bytes from the first."""
    if not moved:
        return None
    last = 0

    def step(done: int, whole: int) -> None:
        nonlocal last
        moved(done - last)
        last = done

    return step


def _plans(group: Sequence[Candidate]) -> list[Any]:
    return [one.plan for one in group]
