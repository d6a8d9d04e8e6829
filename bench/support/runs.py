"""Rounds, a fair start, copies and a table, for all benchmarks of the command line."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import child, storage
from .harness import Case, Row, build, memory_bytes, n_cores, note, table

TIGHT_MEMORY = "256MiB"


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    directory: Path
    n_threads: int
    repeat: int
    cold: bool
    cgroup: Path | None = None
    """The control group that commands run in, such as one whose memory has a limit."""


@dataclass(frozen=True)
class Measured:
    """A case, and how a sample of it is taken."""

    row: Row
    inputs: Sequence[Path]
    """Files that are in the page cache before each warm run, and in no cold one."""
    n_out: int
    """Bytes that it writes."""
    sample: Callable[[Row], None]


class Runs:
    """The runs of one benchmark, in a directory of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.out = settings.directory / "out"
        """The output, which is removed before the next run."""
        self._copied = settings.directory / "copy.bin"
        self._build = build()
        self._found: dict[str, str] = {}

    def take_turns(self, cases: Sequence[Measured]) -> None:
        """Measure each case once a round, so that a slow minute hits them alike.

        The first round only warms up.
        """
        for number in range(self.settings.repeat + 1):
            note(f"round {number} of {self.settings.repeat}")
            for case in cases:
                self.prepare(case.inputs, case.n_out)
                case.sample(case.row)
                if number == 0:
                    case.row.samples.clear()
                    for fact in ("report_seconds", "cpu_seconds"):
                        case.row.facts.pop(fact, None)
        self.remove_out()

    def remove_out(self) -> None:
        """Remove what the last run wrote."""
        shutil.rmtree(self.out, ignore_errors=True)

    def prepare(self, inputs: Sequence[Path], n_out: int) -> None:
        """Make the start of every run alike: nothing written, inputs cached, or dropped if cold."""
        self.remove_out()
        if self.settings.cold:
            storage.forget_all(inputs)
        else:
            storage.read_all(inputs)
            storage.use_memory(self._copied, n_out)

    def copies(self, case: Case, inputs: Sequence[Path], n_out: int) -> list[Measured]:
        """The plain copy of the same bytes: to a plain new file, and to one allocated first."""
        n_bytes = size(inputs) + n_out
        return [
            Measured(
                Row({**case, "reserve": reserve}, n_bytes=n_bytes),
                inputs,
                n_out,
                partial(self._copy, inputs, n_out, reserve == "yes"),
            )
            for reserve in ("no", "yes")
        ]

    def _copy(self, inputs: Sequence[Path], n_out: int, reserve: bool, row: Row) -> None:
        threads = self.settings.n_threads
        row.samples.append(storage.copy(inputs, self._copied, n_out, threads, reserve))

    def command(self, row: Row, *arguments: str) -> dict[str, Any]:
        """Run ``tallies`` in a new process, note time and memory, and return its report."""
        command = [sys.executable, "-m", "tallies", *arguments, "--json"]
        ended = child.run(
            [*command, "--threads", str(self.settings.n_threads)], cgroup=self.settings.cgroup
        )
        report: dict[str, Any] = json.loads(ended.output)
        row.samples.append(ended.seconds)
        row.facts.setdefault("cpu_seconds", []).append(ended.cpu_seconds)
        row.facts["reads_counted"] = ended.read_bytes
        row.facts.setdefault("report_seconds", []).append(report["seconds"])
        row.facts["peak_bytes"] = max(ended.peak_bytes, row.facts.get("peak_bytes", 0))
        return report

    def expect_same(self, what: str, found: str) -> None:
        """RuntimeError unless each run of the same thing finds the same, with the same build."""
        if build() != self._build:
            raise RuntimeError("tallies was installed anew during the run; measure again")
        first = self._found.setdefault(what, found)
        if found != first:
            raise RuntimeError(f"{what}: this run gives {found}, the first one gave {first}")


def size(files: Sequence[Path]) -> int:
    """Bytes of files together."""
    return sum(file.stat().st_size for file in files)


def tensor_files(*directories: Path) -> list[Path]:
    """The safetensors files in directories and below."""
    return [file for path in directories for file in sorted(path.rglob("*.safetensors"))]


def fingerprint(path: Path) -> str:
    """Return the fingerprint that ``tallies inspect`` gives a checkpoint."""
    command = [sys.executable, "-m", "tallies", "inspect", str(path), "--json"]
    return str(json.loads(child.run(command).output)["fingerprint"])


def memory_option(max_memory: str) -> list[str]:
    """The option for a budget; none for "default"."""
    return [] if max_memory == "default" else ["--max-memory", max_memory]


def relate(row: Row, copies: Sequence[Row], target: float | None) -> None:
    """Note the ratio of a row's time to that of the fastest copy, and what is asked of it."""
    copy = min(one.seconds for one in copies)
    row.facts["ratio_to_copy"] = row.seconds / copy
    if "report_seconds" in row.facts:
        row.facts["own_ratio_to_copy"] = statistics.median(row.facts["report_seconds"]) / copy
        if target is not None:
            row.facts["target_ratio"] = target


def show(rows: Sequence[Row]) -> str:
    """The rows as a table: whole processes, and beside them the work without Python's start."""
    head = [
        *("job", "cache", "budget", "s", "noise", "GB/s"),
        *("x copy", "own x copy", "target", "x sum", "CPU s", "reads", "peak MiB"),
    ]
    body = []
    for row in rows:
        n_out = f" to {int(row.case['n_out']) / 1e9:.2f} GB" if "n_out" in row.case else ""
        reserve = {"yes": ", file allocated first"}.get(str(row.case.get("reserve")), "")
        ratio, own, target = (
            row.facts.get(key) for key in ("ratio_to_copy", "own_ratio_to_copy", "target_ratio")
        )
        to_sum, reads = (row.facts.get(key) for key in ("ratio_to_sum", "reads"))
        cpu = row.facts.get("cpu_seconds")
        peak, most = (row.facts.get(key) for key in ("peak_bytes", "target_peak_bytes"))
        body.append(
            [
                f"{row.case['job']}{n_out}{reserve}",
                str(row.case["cache"]),
                str(row.case.get("max_memory", "-")),
                f"{row.seconds:.2f}",
                f"{row.noise:.0%}" if len(row.samples) > 1 else "1 run",
                f"{row.gb_per_second:.2f}",
                f"{ratio:.2f}" if ratio else "-",
                f"{own:.2f}" if own else "-",
                f"{target:.2f}" if target else "-",
                f"{to_sum:.2f}" if to_sum else "-",
                f"{statistics.median(cpu):.2f}" if cpu else "-",
                f"{reads:.3f}" if reads else "-",
                (f"{peak / 2**20:.0f}" if peak else "-")
                + (f" of {most / 2**20:.0f}" if most else ""),
            ]
        )
    return table(head, body)


def add_options(
    parser: argparse.ArgumentParser, name: str, parameters: float | None = None
) -> None:
    """Add the options that every such benchmark has, and the size of the model if it has one."""
    if parameters is not None:
        parser.add_argument(
            "--parameters", type=float, default=parameters, help=f"default: {parameters:g}"
        )
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(tempfile.gettempdir()) / "tallies-bench",
        help="where checkpoints are kept between runs (2 bytes a parameter and model)",
    )
    parser.add_argument("--threads", type=int, default=n_cores(), help="default: all cores")
    parser.add_argument("--repeat", type=int, default=5, help="rounds; default: 5")
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each run")
    parser.add_argument(
        "--cgroup", type=Path, help="the directory of a control group that commands run in"
    )
    parser.add_argument("--name", default=name, help=f"of the result; default: {name}")


def warn_of_cache(rows: Sequence[Row], settings: Settings) -> None:
    """Say so where warm runs were cold ones."""
    if not settings.cold and max(row.n_bytes for row in rows) > 0.8 * memory_bytes():
        note("the largest case does not fit the page cache: its times are those of the disk")
