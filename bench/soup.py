"""Times the average of many checkpoints beside plain reads of the same files.

python -m bench.soup [--models N] [--parameters N] [--threads N] [--repeat N] [--cold] [--dir DIR]

The models are random numbers in bfloat16 and are removed at the end. The yardstick reads all files
with positioned reads of 8 MiB by as many threads, and writes nothing. Both take turns; with
``--cold`` the files are dropped from the page cache before each.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from ml_dtypes import bfloat16
from safetensors.numpy import save_file

import tallies

from .support import storage
from .support.harness import Row, n_cores, note, save, table

_PIECE = 8 << 20
_SIDE = 2048
ASKED = 0.9
"""Share of the rate of plain reads that the average is to reach."""


def write_models(folder: Path, n_models: int, n_parameters: int) -> list[Path]:
    """Write models of equal tensors and other values, and return their directories."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((_SIDE, _SIDE), np.float32).astype(bfloat16)
    n_tensors = max(n_parameters // values.size, 1)
    paths = [folder / f"step{number}" for number in range(n_models)]
    for number, path in enumerate(paths):
        path.mkdir()
        tensors = {
            f"model.layers.{i}.weight": np.roll(values, 97 * number + i) for i in range(n_tensors)
        }
        save_file(tensors, path / "model.safetensors")
    return paths


def read_plainly(paths: Sequence[Path], threads: int) -> None:
    """Read all bytes of files, each piece into the memory of the last one of its thread."""

    def read(first: int) -> None:
        room = memoryview(bytearray(_PIECE))
        for path in paths[first::threads]:
            with open(path, "rb", buffering=0) as file:
                at = 0
                while got := os.preadv(file.fileno(), [room], at):
                    at += got

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(threads)))


def run(paths: Sequence[Path], threads: int, repeat: int, *, cold: bool) -> list[Row]:
    """Rows of the plain reads and of the average; the first round warms the cache."""
    files = [path / "model.safetensors" for path in paths]
    recipe = {"merge_method": "linear", "models": [str(path) for path in paths]}
    out = paths[0].parent / "soup"
    jobs: dict[str, Callable[[], object]] = {
        "plain reads": partial(read_plainly, files, threads),
        "linear": partial(tallies.merge, recipe, out, threads=threads, overwrite=True),
    }
    rows = [Row({"job": name, "models": len(paths), "cold": cold}) for name in jobs]
    for number in range(repeat + 1):
        for row, job in zip(rows, jobs.values(), strict=True):
            if cold:
                storage.forget_all(files)
            start, used = time.perf_counter(), time.process_time()
            job()
            if number > 0:
                row.samples.append(time.perf_counter() - start)
                row.facts["processor_seconds"] = time.process_time() - used
    n_bytes = sum(file.stat().st_size for file in files)
    for row in rows:
        row.facts["bytes"] = n_bytes
        row.facts["share"] = rows[0].seconds / row.seconds
    return rows


def show(rows: Sequence[Row]) -> str:
    """The rows as a table, with the share of the plain rate."""
    body = [
        [
            str(row.case["job"]),
            f"{row.seconds:.2f}",
            f"{row.facts['bytes'] / 1e9 / row.seconds:.2f}",
            f"{row.facts['share']:.0%}",
            f"{row.facts['processor_seconds']:.2f}",
            f"{row.noise:.0%}",
        ]
        for row in rows
    ]
    return table(["job", "s", "GB/s read", "of plain", "CPU s", "noise"], body)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.soup", description=__doc__)
    parser.add_argument("--models", type=int, default=20, help="default: 20")
    parser.add_argument("--parameters", type=int, default=100_000_000, help="default: 1e8")
    parser.add_argument("--threads", type=int, default=n_cores(), help="default: all cores")
    parser.add_argument("--repeat", type=int, default=5, help="samples; default: 5")
    parser.add_argument("--cold", action="store_true", help="read from the disk")
    parser.add_argument("--dir", type=Path, help="of the models; default: a temporary one")
    parser.add_argument("--name", default="soup", help="of the result; default: soup")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=asked.dir) as folder:
        paths = write_models(Path(folder), asked.models, asked.parameters)
        rows = run(paths, asked.threads, asked.repeat, cold=asked.cold)
    print(show(rows))
    settings = {"threads": asked.threads, "parameters": asked.parameters, "asked_share": ASKED}
    note(f"-> {save(asked.name, rows, settings)}")


if __name__ == "__main__":
    main()
