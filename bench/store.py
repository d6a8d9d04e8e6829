"""Times packing and unpacking beside plain copies and a plain program, and measures stores.

python -m bench.store [--tasks N] [--cold] [--sizes] [--name NAME]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tallies.sizes import parse_size
from tallies.store.codecs import registry as codecs

from . import sizes
from .rivals.plain import task_name
from .support import checkpoints, child, runs
from .support.checkpoints import Llama
from .support.harness import Case, Row, note, save, table
from .support.runs import (
    TIGHT_MEMORY,
    Measured,
    Runs,
    Settings,
    memory_option,
    relate,
    show,
    tensor_files,
)
from .support.store_check import (
    check_same_content,
    check_store,
    check_unpacked,
    checkpoint_digest,
    store_fingerprint,
)

_DEFAULT_MEMORY = "1GiB"
# Bytes that packing may hold beyond its budget.
_OTHER_BYTES = 150 << 20
_TASK = task_name(1)
_UNPACK_TARGET = 1.5
_TIMES_FASTER_TARGET = 10


@dataclass(frozen=True)
class Packing:
    """One way to pack."""

    codec: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    target_ratio: float | None = None
    """The required ratio of the time to the time of the copy."""
    budgets: tuple[str, ...] = ("default",)

    @property
    def name(self) -> str:
        """How it is called in results."""
        values = [f"{key}={value}" for key, value in self.parameters.items()]
        return " ".join([f"pack {self.codec}", *values])


PACKINGS = (
    Packing("tall", target_ratio=2.0, budgets=("default", TIGHT_MEMORY)),
    # All matrices have signs: copying the embedding of every task would be most of the time.
    Packing("bitdelta", {"dense": "lm_head"}),
    # Embeddings are factored as a whole, beyond the default budget.
    Packing("tsv_c", {"exclude": "embed,lm_head"}),
    Packing("twin", {"exclude": "embed,lm_head"}),
)


def _packing_of(name: str) -> Packing:
    """Return the packing of a codec: with its defaults, unless the table above states others."""
    return next((one for one in PACKINGS if one.codec == name), Packing(name))


class Bench:
    """The stores of one model size and number of tasks."""

    def __init__(self, llama: Llama, n_tasks: int, settings: Settings) -> None:
        self._settings = settings
        self._llama = llama
        self._runs = Runs(settings)
        self._models = self._made(llama, n_tasks)
        # One layer: the plain program takes 4 bytes a parameter and task beside the models.
        self._layer = replace(llama, num_hidden_layers=1, vocab_size=256)
        self._layer_models = self._made(self._layer, n_tasks)
        self._packings = [_packing_of(name) for name in codecs.of_models()]

    def _made(self, llama: Llama, n_tasks: int) -> list[Path]:
        note(f"{1 + n_tasks} checkpoints of {llama.n_parameters / 1e9:.3f}e9 parameters")
        home = self._settings.directory / f"llama-{llama.n_parameters}-x{n_tasks}"
        return checkpoints.ensure(home, llama, n_experts=n_tasks)

    def run(self) -> list[Row]:
        """Rows of the copies, of packing and unpacking, and of the plain program; in turns."""
        packs, pack_copies = [], {}
        for packing in self._packings:
            n_out = self._try(packing)
            for budget in packing.budgets:
                packs.append(self._packing(packing, budget, n_out))
            if n_out not in pack_copies:
                case = self._case("copy of all models", n_out=n_out)
                pack_copies[n_out] = self._runs.copies(case, packs[-1].inputs, n_out)
        base_files = tensor_files(self._models[0])
        n_base = runs.size(base_files)
        base_copies = self._runs.copies(self._case("copy of a model"), base_files, n_base)
        unpacks = self._unpackings(n_base)
        plain = self._plain()
        copies = [case for pair in pack_copies.values() for case in pair]
        cases = [*copies, *packs, *base_copies, *unpacks, *plain]
        self._runs.take_turns(cases)

        targets = {packing.name: packing.target_ratio for packing in self._packings}
        for one in (*copies, *packs):
            beside = [copy.row for copy in pack_copies[one.n_out]]
            relate(one.row, beside, targets.get(str(one.row.case["job"])))
        for one in (*base_copies, *unpacks):
            relate(one.row, [copy.row for copy in base_copies], _UNPACK_TARGET)
        _compare([case.row for case in plain])
        return [case.row for case in cases]

    def _case(self, job: str, llama: Llama | None = None, **axes: str | int) -> Case:
        return {
            "job": job,
            **axes,
            "parameters": (llama or self._llama).n_parameters,
            "tasks": len(self._models) - 1,
            "threads": self._settings.n_threads,
            "cache": "cold" if self._settings.cold else "warm",
        }

    def _store(self, models: Sequence[Path]) -> Path:
        """Return the path of the store that is unpacked."""
        return models[0].parent / "tall"

    def _try(self, packing: Packing) -> int:
        """Pack once, to learn the size; the store of tall is kept, to be unpacked."""
        note(packing.name)
        if packing.codec != "tall":
            n_bytes = self._pack(packing, self._models, self._runs.out, Row({}))
            self._runs.remove_out()
            return n_bytes
        self._pack(packing, self._layer_models, self._store(self._layer_models), Row({}))
        return self._pack(packing, self._models, self._store(self._models), Row({}))

    def _packing(self, packing: Packing, budget: str, n_out: int) -> Measured:
        files = tensor_files(*self._models)
        row = Row(self._case(packing.name, max_memory=budget), n_bytes=runs.size(files) + n_out)
        most = parse_size(_DEFAULT_MEMORY if budget == "default" else budget)
        row.facts["target_peak_bytes"] = most + _OTHER_BYTES
        return Measured(row, files, n_out, partial(self._sample_pack, packing, self._models))

    def _sample_pack(self, packing: Packing, models: Sequence[Path], row: Row) -> None:
        self._pack(packing, models, self._runs.out, row)

    def _pack(self, packing: Packing, models: Sequence[Path], store: Path, row: Row) -> int:
        """Bytes of the store, which is what it always was and what the reference gives."""
        base, *experts = models
        tasks = [f"{task_name(i)}={path}" for i, path in enumerate(experts, 1)]
        report = self._runs.command(
            row,
            *("pack", "--codec", packing.codec, "--base", str(base)),
            *(word for task in tasks for word in ("--task", task)),
            *(word for key, v in packing.parameters.items() for word in ("--param", f"{key}={v}")),
            *("--out", str(store), "--overwrite"),
            *memory_option(str(row.case.get("max_memory", "default"))),
        )
        row.facts["fingerprint"] = store_fingerprint(store)
        self._runs.expect_same(f"{packing.name} of {base}", row.facts["fingerprint"])
        if "elements_checked" not in row.facts:
            child.run([sys.executable, "-m", "tallies", "verify", str(store), "--json"])
            row.facts["elements_checked"] = check_store(store, models)
        return int(report["n_bytes"])

    def _unpackings(self, n_out: int) -> list[Measured]:
        store, base = self._store(self._models), self._models[0]
        files = [
            *tensor_files(base),
            *(store / name for name in ("shared.safetensors", f"tasks/{_TASK}.safetensors")),
        ]
        n_bytes = runs.size(files) + n_out
        return [
            Measured(Row(self._case(job), n_bytes=n_bytes), files, n_out, sample)
            for job, sample in (("unpack tall", self._unpack), ("load tall", self._load))
        ]

    def _unpack(self, row: Row) -> None:
        store, out = self._store(self._models), self._runs.out
        report = self._runs.command(row, "unpack", str(store), _TASK, str(out), "--overwrite")
        row.facts["fingerprint"] = report["fingerprint"]
        self._runs.expect_same("unpack", report["fingerprint"])
        if "elements_checked" not in row.facts:
            self._runs.expect_same("unpack", runs.fingerprint(out))
            row.facts["elements_checked"] = check_unpacked(store, _TASK, self._models[0], out)
            self._runs.expect_same("load tall", checkpoint_digest(out))

    def _load(self, row: Row) -> None:
        report = self._program(row, "support.load", self._store(self._models), _TASK)
        self._runs.expect_same("load tall", report["digest"])

    def _program(self, row: Row, module: str, *arguments: object) -> dict[str, Any]:
        """Run a program of the benchmark; the sample is what it measured inside."""
        threads = ("--threads", str(self._settings.n_threads))
        ended = child.run([sys.executable, "-m", f"bench.{module}", *map(str, arguments), *threads])
        report: dict[str, Any] = json.loads(ended.output)
        row.samples.append(report["seconds"])
        row.facts["peak_bytes"] = max(ended.peak_bytes, row.facts.get("peak_bytes", 0))
        return report

    def _plain(self) -> list[Measured]:
        """Packing a layer with the command line and with the plain program; loading, likewise."""
        models, store = self._layer_models, self._store(self._layer_models)
        files, tall = tensor_files(*models), self._packings[0]
        stored = [*tensor_files(models[0], store)]
        n_store, n_base = runs.size(tensor_files(store)), runs.size(tensor_files(models[0]))

        def pack(row: Row) -> None:
            self._program(row, "rivals.plain", "pack", self._runs.out, *models)
            check_same_content(store, self._runs.out)

        def load(row: Row) -> None:
            report = self._program(row, "support.load", store, _TASK)
            self._runs.expect_same("load a layer", report["digest"])

        def unpack(row: Row) -> None:
            report = self._program(row, "rivals.plain", "unpack", store, models[0], _TASK)
            self._runs.expect_same("load a layer", report["digest"])

        return [
            Measured(Row(self._case(job, self._layer)), inputs, n_out, sample)
            for job, inputs, n_out, sample in (
                ("pack a layer", files, n_store, partial(self._sample_pack, tall, models)),
                ("pack a layer, plain torch", files, n_store, pack),
                ("load a layer", stored, n_base, load),
                ("load a layer, plain torch", stored, n_base, unpack),
            )
        ]


def _compare(rows: Sequence[Row]) -> None:
    """Note by how much each row is faster than the plain program's in the row after it."""
    for ours, plain in zip(rows[::2], rows[1::2], strict=True):
        own = statistics.median(ours.facts.get("report_seconds", ours.samples))
        ours.facts["own_seconds"] = own
        ours.facts["times_faster"] = plain.seconds / own
        ours.facts["target_times_faster"] = _TIMES_FASTER_TARGET


def show_plain(rows: Sequence[Row]) -> str:
    """The cases that have a plain program beside them."""
    head = ["job", "s", "plain s", "times", "target"]
    body = [
        [
            str(row.case["job"]),
            f"{row.facts['own_seconds']:.3f}",
            f"{row.facts['own_seconds'] * row.facts['times_faster']:.2f}",
            f"{row.facts['times_faster']:.1f}",
            f"{row.facts['target_times_faster']}",
        ]
        for row in rows
        if "times_faster" in row.facts
    ]
    return table(head, body)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.store", description=__doc__)
    runs.add_options(parser, "store", 0.31e9)
    parser.add_argument("--tasks", type=int, default=8, help="experts to pack; default: 8")
    parser.add_argument(
        "--sizes", action="store_true", help="also those of 20 tasks of CLIP; 2 GB of disk"
    )
    asked = parser.parse_args(arguments)
    settings = Settings(asked.dir, asked.threads, asked.repeat, asked.cold, asked.cgroup)
    asked.dir.mkdir(parents=True, exist_ok=True)
    rows = Bench(Llama().resized(asked.parameters), asked.tasks, settings).run()
    print(show([row for row in rows if "ratio_to_copy" in row.facts]))
    print()
    print(show_plain(rows))
    runs.warn_of_cache(rows, settings)
    if asked.sizes:
        measured = sizes.measure(asked.dir, sizes.TRAINED, sizes.FROZEN, asked.threads)
        print()
        print(sizes.show(measured))
        rows += measured
    path = save(asked.name, rows, {"repeat": settings.repeat, "threads": settings.n_threads})
    note(f"written: {path.name}")


if __name__ == "__main__":
    main()
