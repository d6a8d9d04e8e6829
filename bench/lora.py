"""Times adapters: merged into a base, merged with each other, taken out; beside copies and PEFT.

python -m bench.lora [--layers N] [--peft-layers N] [--ties-layers N] [--cold] [--name NAME]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.data import chunks
from tallies.checkpoint.tensors import TensorInfo

from .support import adapters, checkpoints, child, runs
from .support.checkpoints import Llama
from .support.harness import Case, Row, note, save, table
from .support.runs import Measured, Runs, Settings, relate, show, tensor_files

RANK = 16
EXTRACTED_RANK = 32
N_ADAPTERS = 8
_MEMORY = "256MiB"
_TARGET_RATIO = 1.5
_TARGET_PEAK = 512 << 20
_DENSITY = 0.2

SEVEN = Llama(
    num_hidden_layers=32,
    vocab_size=32000,
    hidden_size=4096,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    intermediate_size=11008,
)
"""The shapes of Llama 2 7B."""


class Bench:
    """All cases, each with models of its own size."""

    def __init__(self, asked: argparse.Namespace, settings: Settings) -> None:
        self._asked = asked
        self._settings = settings
        self._runs = Runs(settings)

    def run(self) -> list[Row]:
        """Return the rows of all jobs that are asked for."""
        jobs = {
            "merge": self._merge,
            "peft": self._beside_peft,
            "ties": self._ties,
            "extract": self._extract,
        }
        return [row for name in self._asked.jobs for row in jobs[name]()]

    def _models(self, llama: Llama, n_experts: int, n_adapters: int) -> tuple[list[Path], ...]:
        note(f"{1 + n_experts} checkpoints of {llama.n_parameters / 1e9:.3f}e9 parameters")
        home = self._settings.directory / f"llama-{llama.n_parameters}-x{n_experts}"
        models = checkpoints.ensure(home, llama, n_experts=n_experts)
        return models, adapters.ensure(home, llama, models[0], n_adapters, RANK)

    def _case(self, job: str, llama: Llama, **axes: str | int) -> Case:
        return {
            "job": job,
            **axes,
            "parameters": llama.n_parameters,
            "threads": self._settings.n_threads,
            "cache": "cold" if self._settings.cold else "warm",
        }

    def _merge(self) -> list[Row]:
        """A base and an adapter to a model, beside a copy of the base."""
        llama = replace(SEVEN, num_hidden_layers=self._asked.layers)
        (base,), (adapter,) = self._models(llama, 0, 1)
        files = tensor_files(base)
        n_base = runs.size(files)
        copies = self._runs.copies(self._case("copy of the base", llama), files, n_base)
        files += tensor_files(adapter)
        row = Row(
            self._case("base + adapter", llama, max_memory=_MEMORY),
            n_bytes=runs.size(files) + n_base,
        )
        row.facts["target_peak_bytes"] = _TARGET_PEAK
        merge = Measured(row, files, n_base, partial(self._merge_once, base, adapter))
        self._runs.take_turns([*copies, merge])
        beside = [one.row for one in copies]
        relate(row, beside, _TARGET_RATIO)
        for one in beside:
            relate(one, beside, None)
        return [*beside, row]

    def _merge_once(self, base: Path, adapter: Path, row: Row) -> None:
        model = f"{base}+{adapter}"
        report = self._runs.command(
            row,
            *("merge", "--method", "linear", "--model", model, "--no-card"),
            *("--max-memory", _MEMORY, "--out", str(self._runs.out)),
        )
        self._runs.expect_same(model, report["output"]["fingerprint"])

    def _beside_peft(self) -> list[Row]:
        """The same beside merge_and_unload, of a model that fits into memory twice."""
        llama = Llama(num_hidden_layers=self._asked.peft_layers)
        (base,), (adapter,) = self._models(llama, 0, 1)
        files = tensor_files(base, adapter)
        n_base = runs.size(tensor_files(base))
        ours, theirs = (
            Row(self._case(f"base + adapter, {who}", llama)) for who in ("tallies", "PEFT")
        )
        out = self._settings.directory / "peft-out"
        unload = partial(self._rival, "unload", out, [base, adapter])
        self._runs.take_turns(
            [
                Measured(ours, files, n_base, partial(self._merge_once, base, adapter)),
                Measured(theirs, files, n_base, unload),
            ]
        )
        _relate_to_rival(ours, theirs, 5, 10)
        self._rival("unload", out, [base, adapter], Row({}), "--dtype", "float32")
        self._merge_once(base, adapter, Row({}))
        ours.facts["most_ulps_from_peft"] = most_ulps(self._runs.out, out, base)
        self._runs.remove_out()
        return [ours, theirs]

    def _ties(self) -> list[Row]:
        """``ties`` of adapters to one of their rank, beside PEFT's ``ties_svd``."""
        llama = Llama(num_hidden_layers=self._asked.ties_layers)
        (base,), several = self._models(llama, 0, N_ADAPTERS)
        files = tensor_files(*several)
        ours, theirs = (
            Row(self._case(f"ties of {N_ADAPTERS} adapters, {who}", llama))
            for who in ("tallies", "PEFT")
        )

        def merge(row: Row) -> None:
            report = self._runs.command(
                row,
                *("merge", "--method", "ties", "--adapter-rank", str(RANK), "--no-card"),
                *(word for one in several for word in ("--model", str(one))),
                *("--param", f"density={_DENSITY}", "--out", str(self._runs.out)),
            )
            row.facts["error"] = report.get("error")

        out = self._settings.directory / "peft-out"
        rival = partial(self._rival, "ties", out, [base, *several])
        n_out = runs.size(tensor_files(several[0]))
        self._runs.take_turns([Measured(ours, files, n_out, merge)])
        # Minutes for each: one sample, which no warm cache helps.
        rival(theirs, "--rank", str(RANK))
        _relate_to_rival(ours, theirs, 20, None)
        return [ours, theirs]

    def _extract(self) -> list[Row]:
        """An adapter out of a model with the shapes of Llama 3.2 1B."""
        llama = Llama(num_hidden_layers=self._asked.extract_layers)
        (base, expert), _ = self._models(llama, 1, 0)
        files = tensor_files(base, expert)
        row = Row(self._case(f"extract-lora, rank {EXTRACTED_RANK}", llama))
        row.facts["target_seconds"] = 40

        def extract(row: Row) -> None:
            report = self._runs.command(
                row,
                *("extract-lora", str(expert), "--base", str(base)),
                *("--rank", str(EXTRACTED_RANK), "--out", str(self._runs.out)),
            )
            row.facts["error"] = report["error"]
            self._runs.expect_same("extract", str(report["error"]))

        self._runs.take_turns([Measured(row, files, 0, extract)])
        return [row]

    def _rival(self, job: str, out: Path, paths: Sequence[Path], row: Row, *more: str) -> None:
        """Run PEFT in a process of its own."""
        words = [*map(str, (out, *paths)), "--threads", str(self._settings.n_threads), *more]
        command = [sys.executable, "-m", "bench.rivals.peft_adapters", job, *words]
        ended = child.run(command, {"HF_HUB_OFFLINE": "1"})
        row.samples.append(ended.seconds)
        own = json.loads(ended.output.splitlines()[-1])["seconds"]
        row.facts.setdefault("report_seconds", []).append(own)
        row.facts["peak_bytes"] = max(ended.peak_bytes, row.facts.get("peak_bytes", 0))


def most_ulps(one: Path, other: Path, base: Path) -> float:
    """Return the most units in the last place of bfloat16 by which a model differs from another.

    The other is rounded. The units are those of the larger of its value and the base's: where the
    change cancels the base, any order of the sums has errors of the base's size.
    """
    found = 0.0
    ours, theirs, before = (Checkpoint.open(path).tensors for path in (one, other, base))
    for name in ours.keys() & theirs.keys():
        x, y, w = (_values(tensors[name]) for tensors in (ours, theirs, before))
        y = y.astype(ml_dtypes.bfloat16).astype(np.float32)
        exponents = np.frexp(np.maximum(abs(y), abs(w)))[1]
        found = max(found, float((abs(x - y) / np.ldexp(np.float32(1), exponents - 8)).max()))
    return found


def _values(tensor: TensorInfo) -> npt.NDArray[np.float32]:
    dtype = {"BF16": ml_dtypes.bfloat16, "F32": np.float32}[tensor.dtype]
    return np.frombuffer(b"".join(map(bytes, chunks(tensor))), dtype).astype(np.float32)


def _relate_to_rival(ours: Row, theirs: Row, times: float, memory: float | None) -> None:
    ours.facts["times_faster"] = theirs.seconds / ours.seconds
    ours.facts["target_times_faster"] = times
    ours.facts["times_less_memory"] = theirs.facts["peak_bytes"] / ours.facts["peak_bytes"]
    if memory is not None:
        ours.facts["target_times_less_memory"] = memory


def show_others(rows: Sequence[Row]) -> str:
    """The cases that have no copy beside them."""
    keys = ("times_faster", "times_less_memory", "most_ulps_from_peft", "error")
    body = [
        [
            str(row.case["job"]),
            f"{row.seconds:.2f}",
            f"{row.facts['peak_bytes'] / 2**20:.0f}",
            *("" if row.facts.get(key) is None else f"{row.facts[key]:.3g}" for key in keys),
        ]
        for row in rows
    ]
    head = ["job", "s", "peak MiB", "x faster", "x less memory", "ulps", "error"]
    return table(head, body)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.lora", description=__doc__)
    runs.add_options(parser, "lora")
    names = ("merge", "peft", "ties", "extract")
    parser.add_argument("jobs", nargs="*", default=names, help=f"of {', '.join(names)}")
    for option, default, of in (
        ("--layers", 32, "the base that is merged with an adapter"),
        ("--peft-layers", 16, "the same beside PEFT"),
        ("--ties-layers", 1, "the model whose adapters are merged"),
        ("--extract-layers", 16, "the model that an adapter is taken out of"),
    ):
        parser.add_argument(option, type=int, default=default, help=f"{of}; default: {default}")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.jobs) - set(names):
        parser.error(f"unknown jobs: {', '.join(sorted(unknown))}")
    settings = Settings(asked.dir, asked.threads, asked.repeat, asked.cold, asked.cgroup)
    asked.dir.mkdir(parents=True, exist_ok=True)
    rows = Bench(asked, settings).run()
    copied = [row for row in rows if "ratio_to_copy" in row.facts]
    if copied:
        print(show(copied))
        print()
    print(show_others([row for row in rows if row not in copied]))
    path = save(asked.name, rows, {"repeat": settings.repeat, "threads": settings.n_threads})
    note(f"written: {path.name}")


if __name__ == "__main__":
    main()
