"""Times whole merges by the command line, beside a plain copy of the same bytes and mergekit.

python -m bench.merge [--cold] [--scaling] [--mergekit PYTHON] [--name NAME]
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .support import checkpoints, child, runs
from .support.checkpoints import Llama
from .support.harness import Row, note, save, table
from .support.jobs import JOBS, Job, check, check_shapes
from .support.runs import TIGHT_MEMORY, Measured, Runs, memory_option, relate, show, tensor_files

_SCALING_PARAMETERS = (0.31e9, 0.62e9, 1.236e9, 2.47e9)


@dataclass(frozen=True)
class Settings(runs.Settings):
    """How to measure."""

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
        self._files = tensor_files(*self._models)
        self._n_in = runs.size(self._files)
        self._n_out = self._n_in // len(self._models)
        self._runs = Runs(settings)

    def run(self, max_memories: Sequence[str | None]) -> list[Row]:
        """Rows of the copy, of all jobs in each memory budget (None: the default), and of mergekit.

        They take turns.
        """
        copies = self._runs.copies(self._case("copy"), self._files, self._n_out)
        merges = [
            Measured(
                self._row(job.name, max_memory=memory or "default"),
                self._files,
                self._n_out,
                partial(self._merge, job),
            )
            for memory in max_memories
            for job in JOBS
        ]
        self._runs.take_turns([*copies, *merges])
        rows = [case.row for case in (*copies, *merges)]
        if self._settings.mergekit is not None:
            rows += [self._mergekit(job) for job in JOBS if job.mergekit is not None]
        for row in rows[len(copies) :]:
            _relate_to_sum(row, rows)
        targets = {job.name: job.target_ratio for job in JOBS}
        for row in rows:
            relate(row, rows[: len(copies)], targets.get(str(row.case["job"])))
        return rows

    def _case(self, job: str, **axes: str) -> dict[str, str | int]:
        return {
            "job": job,
            **axes,
            "parameters": self._n_parameters,
            "threads": self._settings.n_threads,
            "cache": "cold" if self._settings.cold else "warm",
        }

    def _row(self, job: str, **axes: str) -> Row:
        # Every input and the output once, so that a method that reads twice is seen to be slower.
        return Row(self._case(job, **axes), n_bytes=self._n_in + self._n_out)

    def _merge(self, job: Job, row: Row) -> None:
        report = self._runs.command(
            row,
            *("merge", *job.arguments(self._models), "--out", str(self._runs.out), "--overwrite"),
            *memory_option(str(row.case["max_memory"])),
        )
        row.facts["bytes_read"] = report["bytes_read"]
        row.facts["bytes_written"] = report["bytes_written"]
        if (counted := row.facts.pop("reads_counted")) is not None:
            row.facts["reads"] = counted / self._n_in
        self._verify(job, report, row)

    def _verify(self, job: Job, report: dict[str, Any], row: Row) -> None:
        """The result is what the report says, what it always was, and what the reference gives."""
        said, found = report["output"]["fingerprint"], runs.fingerprint(self._runs.out)
        if said != found:
            raise RuntimeError(
                f"{job.name}: the report's fingerprint is {said}, the output's is {found}"
            )
        self._runs.expect_same(job.name, found)
        row.facts["fingerprint"] = found
        if "elements_checked" not in row.facts:
            row.facts["elements_checked"] = check(job, self._models, self._runs.out)

    def _mergekit(self, job: Job) -> Row:
        assert self._settings.mergekit is not None
        row = self._row(f"mergekit {job.method}")
        recipe = self._settings.directory / "recipe.yml"
        out = self._runs.out
        # Every JSON text is YAML.
        recipe.write_text(json.dumps(job.mergekit_recipe(self._models)))
        command = [
            *(self._settings.mergekit, "-m", "mergekit.scripts.run_yaml"),
            *(str(recipe), str(out), "--lazy-unpickle", "--no-copy-tokenizer", "--quiet"),
            *("--num-threads", str(self._settings.n_threads)),
        ]
        for _ in range(self._settings.mergekit_repeat):
            note(f"mergekit {job.method}: this takes minutes")
            self._runs.prepare(self._files, self._n_out)
            ended = child.run(command, {"HF_HUB_OFFLINE": "1"})
            row.samples.append(ended.seconds)
            row.facts["peak_bytes"] = max(ended.peak_bytes, row.facts.get("peak_bytes", 0))
            check_shapes(self._models[0], out)
        self._runs.remove_out()
        return row


def _relate_to_sum(row: Row, rows: Sequence[Row]) -> None:
    """Note the ratio of a merge's time to that of task_arithmetic in the same budget."""
    wanted = {**row.case, "job": "task_arithmetic"}
    if row.case != wanted:
        for one in rows:
            if one.case == wanted:
                row.facts["ratio_to_sum"] = row.seconds / one.seconds


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
    runs.add_options(parser, "merge", 1.236e9)
    parser.add_argument("--scaling", action="store_true", help="0.3 to 2.4e9 parameters")
    parser.add_argument("--mergekit", metavar="PYTHON", help="an interpreter that has mergekit")
    parser.add_argument("--mergekit-repeat", type=int, default=1, help="default: 1")
    asked = parser.parse_args(arguments)
    settings = Settings(
        directory=asked.dir,
        n_threads=asked.threads,
        repeat=asked.repeat,
        cold=asked.cold,
        cgroup=asked.cgroup,
        mergekit=asked.mergekit,
        mergekit_repeat=asked.mergekit_repeat,
    )
    asked.dir.mkdir(parents=True, exist_ok=True)
    if asked.scaling:
        by_size = scaling(settings, [Llama().resized(n) for n in _SCALING_PARAMETERS])
        rows = [row for rows in by_size for row in rows]
        print(show_scaling(by_size))
    else:
        rows = Bench(Llama().resized(asked.parameters), settings).run([None, TIGHT_MEMORY])
    print(show(rows))
    runs.warn_of_cache(rows, settings)
    path = save(asked.name, rows, {"repeat": settings.repeat, "threads": settings.n_threads})
    note(f"written: {path.name}")


if __name__ == "__main__":
    main()
