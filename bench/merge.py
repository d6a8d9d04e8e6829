"""Times whole merges by the command line, beside a plain copy of the same bytes and mergekit.

python -m bench.merge [--cold] [--scaling] [--mergekit PYTHON] [--name NAME]
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import checkpoints, child, storage
from .checkpoints import Llama
from .harness import Row, build, memory_bytes, n_cores, note, save, table
from .jobs import JOBS, Job, check, check_shapes

_TIGHT_MEMORY = "256MiB"
_SCALING_PARAMETERS = (0.31e9, 0.62e9, 1.236e9, 2.47e9)


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    directory: Path
    n_threads: int
    repeat: int
    cold: bool
    mergekit: str | None = None
    """Interpreter that has mergekit."""
    mergekit_repeat: int = 1


class Bench:
    """The merges of one model size."""

    def __init__(self, llama: Llama, settings: Settings) -> None:
        self._settings = settings
        self._n_parameters = llama.n_parameters
        self.home = settings.directory / f"llama-{llama.n_parameters}"
        note(f"checkpoints of {llama.n_parameters / 1e9:.3f}e9 parameters")
        self._models = checkpoints.ensure(self.home, llama)
        self._files = [f for path in self._models for f in sorted(path.glob("*.safetensors"))]
        self._n_in = sum(file.stat().st_size for file in self._files)
        self._n_out = self._n_in // len(self._models)
        self._out = settings.directory / "out"
        self._fingerprints: dict[str, str] = {}
        self._build = build()

    def run(self, max_memories: Sequence[str | None]) -> list[Row]:
        """Rows of the copy, of all jobs in each memory budget (None: the default), and of mergekit.

        One round measures each case once, so that a slow minute hits them alike; the first round
        only warms up.
        """
        measured: list[tuple[Row, Callable[[Row], None]]] = [
            (self._row("copy", reserve=reserve), self._copy) for reserve in ("no", "yes")
        ]
        measured += [
            (self._row(job.name, max_memory=memory or "default"), self._merge_of(job))
            for memory in max_memories
            for job in JOBS
        ]
        for number in range(self._settings.repeat + 1):
            note(f"round {number} of {self._settings.repeat}")
            for row, measure in measured:
                self._prepare()
                measure(row)
                if number == 0:
                    row.samples.clear()
                    row.facts.pop("report_seconds", None)
        rows = [row for row, _ in measured]
        if self._settings.mergekit is not None:
            rows += [self._mergekit(job) for job in JOBS if job.mergekit is not None]
        shutil.rmtree(self._out, ignore_errors=True)
        copy = min((row for row in rows if row.case["job"] == "copy"), key=lambda row: row.seconds)
        targets = {job.name: job.target_ratio for job in JOBS}
        for row in rows:
            row.facts["ratio_to_copy"] = row.seconds / copy.seconds
            if "report_seconds" in row.facts:
                merging = statistics.median(row.facts["report_seconds"])
                row.facts["merge_ratio_to_copy"] = merging / copy.seconds
                row.facts["target_ratio"] = targets[str(row.case["job"])]
        return rows

    def _row(self, job: str, **axes: str) -> Row:
        case: dict[str, str | int] = {
            "job": job,
            **axes,
            "parameters": self._n_parameters,
            "threads": self._settings.n_threads,
            "cache": "cold" if self._settings.cold else "warm",
        }
        # Every input and the output once, so that a method that reads twice is seen to be slower.
        return Row(case, n_bytes=self._n_in + self._n_out)

    def _prepare(self) -> None:
        shutil.rmtree(self._out, ignore_errors=True)
        if self._settings.cold:
            storage.forget_all(self._files)
        else:
            storage.read_all(self._files)
            storage.use_memory(self._settings.directory / "copy.bin", self._n_out)

    def _copy(self, row: Row) -> None:
        reserve = row.case["reserve"] == "yes"
        out = self._settings.directory / "copy.bin"
        threads = self._settings.n_threads
        row.samples.append(storage.copy(self._files, out, self._n_out, threads, reserve))

    def _merge_of(self, job: Job) -> Callable[[Row], None]:
        return lambda row: self._merge(job, row)

    def _merge(self, job: Job, row: Row) -> None:
        memory = row.case["max_memory"]
        command = [
            *(sys.executable, "-m", "tallies", "merge", *job.arguments(self._models)),
            *("--out", str(self._out), "--overwrite", "--json"),
            *("--threads", str(self._settings.n_threads)),
            *(() if memory == "default" else ("--max-memory", str(memory))),
        ]
        ended = child.run(command)
        report = json.loads(ended.output)
        row.samples.append(ended.seconds)
        row.facts.setdefault("report_seconds", []).append(report["seconds"])
        row.facts["peak_bytes"] = max(ended.peak_bytes, row.facts.get("peak_bytes", 0))
        row.facts["bytes_read"] = report["bytes_read"]
        row.facts["bytes_written"] = report["bytes_written"]
        self._verify(job, report, row)

    def _verify(self, job: Job, report: dict[str, Any], row: Row) -> None:
        """The result is what the report says, what it always was, and what the reference gives."""
        said = report["output"]["fingerprint"]
        command = [sys.executable, "-m", "tallies", "inspect", str(self._out), "--json"]
        found = json.loads(child.run(command).output)["fingerprint"]
        if build() != self._build:
            raise RuntimeError("tallies was installed anew during the run; measure again")
        first = self._fingerprints.setdefault(job.name, found)
        if not said == found == first:
            raise RuntimeError(
                f"{job.name}: the report's fingerprint is {said}, the output's is {found}, and "
                f"that of the first run is {first}"
            )
        row.facts["fingerprint"] = found
        if "elements_checked" not in row.facts:
            row.facts["elements_checked"] = check(job, self._models, self._out)

    def _mergekit(self, job: Job) -> Row:
        assert self._settings.mergekit is not None
        row = self._row(f"mergekit {job.method}")
        recipe = self._settings.directory / "recipe.yml"
        # Every JSON text is YAML.
        recipe.write_text(json.dumps(job.mergekit_recipe(self._models)))
        command = [
            *(self._settings.mergekit, "-m", "mergekit.scripts.run_yaml"),
            *(str(recipe), str(self._out), "--lazy-unpickle", "--no-copy-tokenizer", "--quiet"),
            *("--num-threads", str(self._settings.n_threads)),
        ]
        for _ in range(self._settings.mergekit_repeat):
            note(f"mergekit {job.method}: this takes minutes")
            self._prepare()
            ended = child.run(command, {"HF_HUB_OFFLINE": "1"})
            row.samples.append(ended.seconds)
            row.facts["peak_bytes"] = max(ended.peak_bytes, row.facts.get("peak_bytes", 0))
            check_shapes(self._models[0], self._out)
        return row


def show(rows: Sequence[Row]) -> str:
    """The rows as a table: whole processes, and beside them the merge without Python's start."""
    head = [
        *("job", "cache", "budget", "s", "noise", "GB/s"),
        *("x copy", "merge x copy", "target", "peak MiB"),
    ]
    body = []
    for row in rows:
        reserve = {"yes": ", file allocated first"}.get(str(row.case.get("reserve")), "")
        target, peak = row.facts.get("target_ratio"), row.facts.get("peak_bytes")
        merging = row.facts.get("merge_ratio_to_copy")
        body.append(
            [
                f"{row.case['job']}{reserve}",
                str(row.case["cache"]),
                str(row.case.get("max_memory", "-")),
                f"{row.seconds:.2f}",
                f"{row.noise:.0%}" if len(row.samples) > 1 else "1 run",
                f"{row.gb_per_second:.2f}",
                f"{row.facts['ratio_to_copy']:.2f}",
                f"{merging:.2f}" if merging else "-",
                f"{target:.2f}" if target else "-",
                f"{peak / 2**20:.0f}" if peak else "-",
            ]
        )
    return table(head, body)


def show_scaling(rows_by_size: Sequence[Sequence[Row]]) -> str:
    """How time and memory grow from each size to the next one, scaled to a doubling."""
    head = ["job", "parameters", "s", "s per doubling", "peak MiB"]
    body = []
    for job in JOBS:
        before: Row | None = None
        for rows in rows_by_size:
            row = next(row for row in rows if row.case["job"] == job.name)
            growth = f"x {growth_per_doubling(before, row):.2f}" if before else "-"
            body.append(
                [
                    job.name if before is None else "",
                    f"{int(row.case['parameters']) / 1e9:.2f}e9",
                    f"{row.seconds:.2f}",
                    growth,
                    f"{row.facts['peak_bytes'] / 2**20:.0f}",
                ]
            )
            before = row
    return table(head, body)


def growth_per_doubling(small: Row, large: Row) -> float:
    """The factor on the time, were the large case exactly twice the small one.

    >>> growth_per_doubling(Row({"parameters": 1}, [1.0]), Row({"parameters": 4}, [9.0]))
    3.0
    """
    doublings = math.log2(int(large.case["parameters"]) / int(small.case["parameters"]))
    return float((large.seconds / small.seconds) ** (1 / doublings))


def scaling(settings: Settings, sizes: Sequence[Llama]) -> list[list[Row]]:
    """The rows of each size, smallest first; checkpoints that were not there are removed again."""
    found = []
    for llama in sizes:
        home = settings.directory / f"llama-{llama.n_parameters}"
        was_there = home.exists()
        bench = Bench(llama, settings)
        found.append(bench.run([None]))
        if not was_there:
            shutil.rmtree(bench.home)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.merge", description=__doc__)
    parser.add_argument("--parameters", type=float, default=1.236e9, help="default: 1.236e9")
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(tempfile.gettempdir()) / "tallies-bench",
        help="where checkpoints are kept between runs (8 bytes a parameter)",
    )
    parser.add_argument("--threads", type=int, default=n_cores(), help="default: all cores")
    parser.add_argument("--repeat", type=int, default=5, help="rounds; default: 5")
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each run")
    parser.add_argument("--scaling", action="store_true", help="0.3 to 2.4e9 parameters")
    parser.add_argument("--mergekit", metavar="PYTHON", help="an interpreter that has mergekit")
    parser.add_argument("--mergekit-repeat", type=int, default=1, help="default: 1")
    parser.add_argument("--name", default="merge", help="of the result; default: merge")
    asked = parser.parse_args(arguments)
    settings = Settings(
        directory=asked.dir,
        n_threads=asked.threads,
        repeat=asked.repeat,
        cold=asked.cold,
        mergekit=asked.mergekit,
        mergekit_repeat=asked.mergekit_repeat,
    )
    asked.dir.mkdir(parents=True, exist_ok=True)
    if asked.scaling:
        by_size = scaling(settings, [Llama().resized(n) for n in _SCALING_PARAMETERS])
        rows = [row for rows in by_size for row in rows]
        print(show_scaling(by_size))
    else:
        rows = Bench(Llama().resized(asked.parameters), settings).run([None, _TIGHT_MEMORY])
    print(show(rows))
    largest = max(row.n_bytes for row in rows)
    if not settings.cold and largest > 0.8 * memory_bytes():
        note("the largest case does not fit the page cache: its times are those of the disk")
    path = save(asked.name, rows, {"repeat": settings.repeat, "threads": settings.n_threads})
    note(f"written: {path.name}")


if __name__ == "__main__":
    main()
