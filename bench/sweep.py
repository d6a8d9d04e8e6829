"""Times a sweep of 16 candidates of TIES, 4 densities and 4 scales, beside one merge.

python -m bench.sweep [--dir DIR] [--parameters N] [--threads N] [--repeat N] [--name NAME]

``plain writes`` writes 16 files of the size of the merged tensors from memory, allocated first, in
pieces of 8 MiB by as many threads. ``asked`` is what the candidates may take: 3 merges as arrays,
1.1 merges and the plain writes where they are written.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .support import child, storage
from .support.checkpoints import Llama, ensure
from .support.harness import Row, n_cores, note, save, table
from .support.runs import fingerprint, size, tensor_files

GRID = {"density": [0.1, 0.2, 0.3, 0.5], "lambda": [0.25, 0.5, 0.75, 1.0]}

# Each case runs in a process of its own, which prints its seconds and its processor time.
_PROGRAM = """
import json, resource, sys, time
from pathlib import Path
import tallies
from bench.support import storage
asked = json.loads(sys.argv[1])
def used():
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime
config, grid, out = asked["config"], asked["grid"], asked["out"]
options = {"threads": asked["threads"]}
tallies.plan(config)
start, cpu = time.perf_counter(), used()
if asked["case"] == "merge":
    tallies.merge(config, out, **options)
elif asked["case"] == "plain writes":
    storage.write_files(Path(out), asked["n_files"], asked["n_bytes"], asked["threads"])
elif asked["case"] == "written":
    tallies.sweep(config, grid, out, **options)
else:
    for name, rows in tallies.sweep(config, grid, by="tensor", **options):
        pass
print(json.dumps({"seconds": time.perf_counter() - start, "cpu": used() - cpu}))
"""

CASES = ("merge", "plain writes", "arrays", "written")
N_CANDIDATES = math.prod(map(len, GRID.values()))


def recipe(paths: Sequence[Path]) -> dict[str, Any]:
    """The merge that all candidates change."""
    return {
        "merge_method": "ties",
        "semantics": "paper",
        "base_model": str(paths[0]),
        "models": [{"model": str(path)} for path in paths[1:]],
        "parameters": {"density": GRID["density"][0], "lambda": GRID["lambda"][0]},
    }


def check(out: Path, merged: Path) -> None:
    """Compare the first candidate with the merge; RuntimeError unless all bits are equal."""
    found, expected = fingerprint(out / "0001"), fingerprint(merged)
    if found != expected:
        raise RuntimeError(f"the first candidate is {found}, the merge {expected}")


def run(directory: Path, paths: Sequence[Path], threads: int, repeat: int) -> list[Row]:
    """Rows of all cases, whose samples are taken in turns; the first round warms the cache."""
    rows = {case: Row({"case": case}, facts={"cpu_seconds": []}) for case in CASES}
    config = recipe(paths)
    for number in range(repeat + 1):
        for case, row in rows.items():
            out = directory / case
            shutil.rmtree(out, ignore_errors=True)
            storage.read_all(tensor_files(*paths))
            asked = {"case": case, "config": config, "grid": GRID, "out": str(out)}
            asked["threads"] = threads
            asked |= {"n_files": N_CANDIDATES, "n_bytes": size(tensor_files(paths[0]))}
            ended = child.run([sys.executable, "-c", _PROGRAM, json.dumps(asked)])
            used = json.loads(ended.output)
            note(f"{case}: {used['seconds']:.2f} s, {used['cpu']:.2f} s of processors")
            row.facts["peak_bytes"] = max(ended.peak_bytes, row.facts.get("peak_bytes", 0))
            if number > 0:
                row.samples.append(used["seconds"])
                row.facts["cpu_seconds"].append(used["cpu"])
        if number == 0:
            check(directory / "written", directory / "merge")
    for case in CASES:
        shutil.rmtree(directory / case, ignore_errors=True)
    return list(rows.values())


def show(rows: Sequence[Row]) -> str:
    """The rows as a table, with the ratios to one merge."""
    cpu = {row.case["case"]: sorted(row.facts["cpu_seconds"]) for row in rows}
    middle = {case: samples[len(samples) // 2] for case, samples in cpu.items()}
    asked = {"arrays": 3 * middle["merge"]}
    asked["written"] = 1.1 * middle["merge"] + middle["plain writes"]
    body = [
        [
            str(row.case["case"]),
            f"{row.seconds:.2f}",
            f"{row.seconds / rows[0].seconds:.2f}",
            f"{middle[row.case['case']]:.2f}",
            f"{middle[row.case['case']] / middle['merge']:.2f}",
            f"{asked[row.case['case']]:.2f}" if row.case["case"] in asked else "",
            f"{row.facts['peak_bytes'] / 2**20:.0f}",
        ]
        for row in rows
    ]
    head = ["case", "s", "x merge", "processor s", "x merge", "asked", "peak MiB"]
    return table(head, body)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.sweep", description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("build/bench-sweep"))
    parser.add_argument("--parameters", type=float, default=1.24e9, help="default: 1.24e9")
    parser.add_argument("--threads", type=int, default=n_cores(), help="default: all cores")
    parser.add_argument("--repeat", type=int, default=5, help="samples; default: 5")
    parser.add_argument("--name", default="sweep", help="of the result; default: sweep")
    asked = parser.parse_args(arguments)
    llama = Llama().resized(asked.parameters)
    if asked.parameters < 1e8:
        llama = Llama(num_hidden_layers=1, vocab_size=256)
    directory = asked.dir.resolve()
    paths = ensure(directory / "models", llama)
    rows = run(directory, paths, asked.threads, asked.repeat)
    print(show(rows))
    facts = {"parameters": llama.n_parameters, "threads": asked.threads, "repeat": asked.repeat}
    note(f"written: {save(asked.name, rows, facts).name}")


if __name__ == "__main__":
    main()
