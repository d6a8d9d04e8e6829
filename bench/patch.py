"""Times exact patches beside plain reads and copies, and measures their sizes.

python -m bench.patch [--parameters N] [--threads N] [--repeat N] [--directory DIR] [--name NAME]

Models differ in a share of their elements at random places, each by one unit in the last place; for
sizes, small trained models too, by steps of AdamW. All steps are called in this process, in turns,
with files in the page cache. Ratios are of the time by the clock and, which other programs disturb
less, of the processor's.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import tallies
from tallies import torch as tallies_torch

from .support import checkpoints, storage, tuned
from .support.checkpoints import Llama
from .support.harness import Row, n_cores, note, save, table
from .support.runs import size, tensor_files

_CHANGED = (0.001, 0.01, 0.05, 0.1, 1.0)
_STEPS = (1, 4, 16, 64)
"""The steps of AdamW between two models."""
_BASE_STEPS = 600
_TIMED = 0.01
_CHAIN = 10
# Elements that are drawn at a time.
_DRAWN = 1 << 24
# Bounds of the time beside another, and of how many times smaller than the model a patch is.
_AT_MOST = {"make": 1.2, "apply": 1.2, "apply in place": 0.3, f"apply {_CHAIN}": 1.5}
_AT_LEAST = {("none", 0.01): 60, ("none", 0.05): 12, ("zstd", 0.01): 100, ("zstd", 0.05): 25}
_LIVE_AT_LEAST = 5


def changed(model: Path, out: Path, share: float, seed: int) -> Path:
    """Write a copy of a model of 16-bit elements, a share of which is one pattern up or down."""
    draw = np.random.default_rng(seed)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(model, out)
    for file in tensor_files(out):
        with open(file, "rb") as stream:
            head = 8 + int.from_bytes(stream.read(8), "little")
        words = np.memmap(file, np.uint16, "r+", offset=head)
        for first in range(0, words.size, _DRAWN):
            part = words[first : first + _DRAWN]
            at = _some_of(part.size, share, draw)
            part[at] += (2 * draw.integers(2, size=at.size, dtype=np.int16) - 1).view(np.uint16)
        words.flush()
    return out


def _some_of(n: int, share: float, draw: np.random.Generator) -> Any:
    """Return random numbers below n, in order, each of which is there with a probability."""
    enough = int(1.1 * share * n) + 100  # more by many standard deviations
    numbers = np.cumsum(draw.geometric(share, enough)) - 1
    return numbers[numbers < n]


def entropy(old: Path, new: Path) -> float:
    """Return the bits an element that differences of two models of 16-bit elements carry.

    It bounds every coder that knows no more than how many elements change, at random places, and
    how often each exclusive-or of patterns occurs.
    """
    counts = np.zeros(1 << 16, np.int64)
    for of_old, of_new in zip(tensor_files(old), tensor_files(new), strict=True):
        for before, now in zip(words(of_old), words(of_new), strict=True):
            counts += np.bincount(before ^ now, minlength=counts.size)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def words(file: Path) -> Iterator[Any]:
    """Yield the elements of a file, of 16 bits each, some at a time."""
    with open(file, "rb") as stream:
        head = 8 + int.from_bytes(stream.read(8), "little")
    all_words = np.memmap(file, np.uint16, "r", offset=head)
    for first in range(0, all_words.size, _DRAWN):
        yield all_words[first : first + _DRAWN]


class Bench:
    """The patches of one size of model."""

    def __init__(self, llama: Llama, home: Path, n_threads: int, repeat: int) -> None:
        self._home, self._threads, self._repeat = home, n_threads, repeat
        note(f"models of {llama.n_parameters / 1e9:.3f}e9 parameters")
        self._old = checkpoints.ensure(home / "models", llama, n_experts=0)[0]
        self._files = tensor_files(self._old)
        self._n_bytes = size(self._files)
        self._axes = {"parameters": llama.n_parameters, "threads": n_threads}

    def _row(self, job: str, share: float | str, n_bytes: float) -> Row:
        return Row({"job": job, "changed": str(share), **self._axes}, n_bytes=n_bytes)

    def _make(self, old: Path, new: Path, name: str, coder: str = "none") -> Path:
        out = self._home / name
        tallies.make_patch(old, new, out, coder=coder, threads=self._threads, overwrite=True)
        return out

    def sizes(self) -> list[Row]:
        """Rows of how many times smaller than the model patches are."""
        rows = []
        for share in _CHANGED:
            new = changed(self._old, self._home / "new", share, 1)
            for row in self._sizes_of(self._old, new, share):
                coder = str(row.case["job"]).removeprefix("size, ")
                if (coder, share) in _AT_LEAST:
                    row.facts["at_least"] = _AT_LEAST[coder, share]
                rows.append(row)
        return rows

    def tuned_sizes(self, base_steps: int) -> list[Row]:
        """The same of small trained models and what steps of AdamW make of them."""
        pairs = tuned.write(self._home / "tuned", _STEPS, base_steps=base_steps)
        return [
            row
            for n, (old, new) in zip(_STEPS, pairs, strict=True)
            for row in self._sizes_of(old, new, f"AdamW, {n} steps")
        ]

    def _sizes_of(self, old: Path, new: Path, share: float | str) -> Iterator[Row]:
        """Yield a row for each coder, with what the entropy of the changes allows."""
        n_bytes = size(tensor_files(old))
        bits = entropy(old, new)
        for coder in ("none", "zstd"):
            out = self._home / "patch"
            made = tallies.make_patch(
                old, new, out, coder=coder, threads=self._threads, overwrite=True
            )
            n_patch = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
            row = self._row(f"size, {coder}", share, 0)
            row.samples = [made.seconds]
            row.facts = {
                "patch_bytes": n_patch,
                "times_smaller": n_bytes / n_patch,
                "changed_share": made.n_changed / made.n_elements,
                "entropy_allows": 16 / bits if bits > 0 else math.inf,
            }
            yield row

    def times(self) -> list[Row]:
        """Rows of making and applying beside plain reads and copies, in turns."""
        new = changed(self._old, self._home / "new", _TIMED, 1)
        patch = self._make(self._old, new, "patch")
        chain, last = [], self._old
        for number in range(_CHAIN):
            step = changed(last, self._home / f"step-{number % 2}", _TIMED, 2 + number)
            chain.append(self._make(last, step, f"patch-{number}"))
            last = step
        for number in range(2):
            shutil.rmtree(self._home / f"step-{number}")
        model = self._home / "in-place"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(self._old, model)
        both = [*self._files, *tensor_files(new)]
        out, copied = self._home / "out", self._home / "copied"
        n, n_threads = self._n_bytes, self._threads

        def apply(patches: Path | Sequence[Path]) -> float:
            report = tallies.apply_patch(patches, self._old, out, threads=n_threads, overwrite=True)
            return report.seconds

        def in_place() -> float:
            undo = len(rows["apply in place"].samples) % 2 == 1
            report = tallies.apply_patch(patch, model, undo=undo, threads=n_threads, sync=False)
            return report.seconds

        def make() -> float:
            report = tallies.make_patch(
                self._old, new, self._home / "made", threads=n_threads, overwrite=True
            )
            return report.seconds

        calls: dict[str, Callable[[], float]] = {
            "read both": lambda: storage.copy(both, copied, 0, n_threads, False),
            "copy": lambda: storage.copy(self._files, copied, n, n_threads, True),
            "make": make,
            "apply": lambda: apply(patch),
            f"apply {_CHAIN}": lambda: apply(chain),
            "apply in place": in_place,
        }
        rows = {name: self._row(name, _TIMED, 2 * n) for name in calls}
        used: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(self._repeat):
            for name, call in calls.items():
                # All that write a new file take memory just used, and no earlier file waits for
                # the disk meanwhile.
                shutil.rmtree(out, ignore_errors=True)
                os.sync()
                storage.use_memory(copied, n)
                begin = time.process_time()
                rows[name].samples.append(call())
                used[name].append(time.process_time() - begin)
        for name, row in rows.items():
            row.facts["processor_seconds"] = statistics.median(used[name])
        for name, beside in (
            ("make", "read both"),
            ("apply", "copy"),
            ("apply in place", "copy"),
            (f"apply {_CHAIN}", "apply"),
        ):
            row, other = rows[name], rows[beside]
            row.facts["beside"] = beside
            row.facts["ratio"] = row.seconds / other.seconds
            row.facts["processor_ratio"] = (
                row.facts["processor_seconds"] / other.facts["processor_seconds"]
            )
            row.facts["at_most"] = _AT_MOST[name]
        return list(rows.values())

    def live(self) -> list[Row]:
        """Rows of changing tensors in memory, beside torch's own way with the same positions."""
        new = changed(self._old, self._home / "new", _TIMED, 1)
        patch = self._make(self._old, new, "patch")
        state = {k: v for file in self._files for k, v in load_file(file).items()}
        target = {k: v for file in tensor_files(new) for k, v in load_file(file).items()}
        positions, values = {}, {}
        for name, tensor in state.items():
            at = torch.nonzero(tensor.view(torch.int16) != target[name].view(torch.int16))
            positions[name] = tuple(at.t().contiguous())
            values[name] = target[name][positions[name]]
        ours = self._row("live", _TIMED, 0)
        theirs = self._row("live, index_put_", _TIMED, 0)
        torch.set_num_threads(self._threads)

        def put() -> None:
            for name, tensor in state.items():
                tensor.index_put_(positions[name], values[name])

        used: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(self._repeat):
            for row, name, call in (
                (theirs, "theirs", put),
                (ours, "ours", lambda: tallies_torch.apply_patch(state, patch)),
            ):
                start, begin = time.perf_counter(), time.process_time()
                call()
                row.samples.append(time.perf_counter() - start)
                used[name].append(time.process_time() - begin)
                tallies_torch.apply_patch(state, patch, undo=True)
        tallies_torch.apply_patch(state, patch)
        for name, tensor in state.items():
            if not torch.equal(tensor.view(torch.int16), target[name].view(torch.int16)):
                raise RuntimeError(f"live: {name} is not as the new model has it")
        ours.facts = {
            "beside": "live, index_put_",
            "times_faster": theirs.seconds / ours.seconds,
            "processor_ratio": statistics.median(used["theirs"]) / statistics.median(used["ours"]),
            "at_least": _LIVE_AT_LEAST,
        }
        return [theirs, ours]


def run(
    llama: Llama, home: Path, *, threads: int, repeat: int, base_steps: int = _BASE_STEPS
) -> list[Row]:
    """Measure all rows, with models and patches below a directory."""
    bench = Bench(llama, home, threads, repeat)
    return [*bench.sizes(), *bench.tuned_sizes(base_steps), *bench.times(), *bench.live()]


def show(rows: Sequence[Row]) -> str:
    """Return the table of rows."""

    def number(row: Row, *names: str) -> str:
        return next((f"{row.facts[name]:.2f}" for name in names if name in row.facts), "")

    return table(
        ["job", "changed", "s", "against", "found", "of the processor", "asked", "entropy allows"],
        [
            [
                str(row.case["job"]),
                f"{row.case['changed']}"
                + (f" ({row.facts['changed_share']:.2%})" if "changed_share" in row.facts else ""),
                f"{row.seconds:.3f}" if row.samples else "",
                str(row.facts.get("beside", "")),
                number(row, "times_smaller", "ratio", "times_faster"),
                number(row, "processor_ratio"),
                "".join(
                    f"{sign} {row.facts[key]}"
                    for key, sign in (("at_most", "<="), ("at_least", ">="))
                    if key in row.facts
                ),
                number(row, "entropy_allows"),
            ]
            for row in rows
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and keep the results."""
    parser = argparse.ArgumentParser(prog="bench.patch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--parameters", type=float, default=1.24e9)
    parser.add_argument("--threads", type=int, default=n_cores())
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="for models and patches")
    parser.add_argument("--name", default="patch")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.directory) as home:
        llama = Llama().resized(options.parameters)
        rows = run(llama, Path(home), threads=options.threads, repeat=options.repeat)
    print(show(rows))
    settings = {"parameters": options.parameters, "threads": options.threads}
    print(save(options.name, rows, {**settings, "repeat": options.repeat}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
