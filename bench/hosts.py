"""Times other tools alone and on our kernels, in turns in one run, and compares their results.

Seconds are those of all cores that a process used; a run of mergekit is timed by the clock.

python -m bench.hosts [JOB ...] [--parameters N] [--threads N] [--repeat N] [--name NAME]

Needs mergekit and peft in this environment.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .support import checkpoints, child
from .support.harness import Case, Row, note, save, table

N_ADAPTERS = 8
RANK = 16
DENSITY = 0.2
# Widths of input and output of the linear layers of Llama 3.2 1B.
LINEAR = {
    "q_proj": (2048, 2048),
    "k_proj": (2048, 512),
    "v_proj": (2048, 512),
    "o_proj": (2048, 2048),
    "gate_proj": (2048, 8192),
    "up_proj": (2048, 8192),
    "down_proj": (8192, 2048),
}

Call = Callable[[], Any]


class Bench:
    """The jobs, each with a row of the host alone and rows of the host on ours."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self._asked = asked
        torch.set_num_threads(asked.threads)

    def run(self) -> list[Row]:
        """Return the rows of all jobs that are asked for."""
        jobs = {
            "imports": self._imports,
            "small": self._small,
            "peft": self._peft,
            "mergekit": self._mergekit,
        }
        return [row for name in self._asked.jobs for row in jobs[name]()]

    def _case(self, job: str, who: str) -> Case:
        return {"job": job, "who": who, "threads": self._asked.threads}

    def _in_turns(
        self, job: str, host: Any, call: Call, modes: Sequence[bool], fresh: Call | None = None
    ) -> list[Row]:
        """Time a call of a host alone and on ours; the first round is thrown away.

        Args:
            job: The name of the rows.
            host: The module of ``tallies.integrations``.
            call: Takes what ``fresh`` returns, where there is one.
            modes: The values of ``exact`` to install ours with.
            fresh: Makes the state that a call uses up, unmeasured.
        """
        alone = Row(self._case(job, "alone"))
        rows = {exact: Row(self._case(job, "exact" if exact else "inexact")) for exact in modes}
        for number in range(self._asked.repeat + 1):
            expected, seconds = _timed(call, fresh)
            if number:
                alone.samples.append(seconds)
            for exact, row in rows.items():
                with host.installed(exact=exact):
                    found, seconds = _timed(call, fresh)
                    row.facts["calls"] = host.calls()
                _check(found, expected, exact)
                if number:
                    row.samples.append(seconds)
                    row.facts.setdefault("ratios", []).append(alone.samples[-1] / seconds)
        return [alone, *rows.values()]

    def _imports(self) -> list[Row]:
        """Time imports of a host, and what importing and installing ours takes after it."""
        rows = []
        hosts = {"mergekit": "mergekit.merge_methods", "peft": "peft"}
        for name, module in hosts.items():
            mine = [
                Row(self._case(f"import {name}", who)) for who in ("alone", "imported", "installed")
            ]
            for number in range(self._asked.repeat + 1):
                program = _TIMED.format(module=module, name=name)
                ended = child.run([sys.executable, "-c", program])
                if number:
                    for row, seconds in zip(mine, ended.output.split(), strict=True):
                        row.samples.append(float(seconds))
            for row in mine[1:]:
                pairs = zip(row.samples, mine[0].samples, strict=True)
                row.facts["added_seconds"] = statistics.median(a - b for a, b in pairs)
            rows += mine
        return rows

    def _small(self) -> list[Row]:
        """mergekit's linear on two matrices in one thread, and ties on many small tensors."""
        from mergekit.merge_methods import merge_tensors

        from tallies.integrations import mergekit

        pair = [torch.randn(2048, 2048).bfloat16() for _ in range(2)]
        small = [[torch.randn(32) for _ in range(3)] for _ in range(256)]
        weights = {"weight": [0.6, 0.4]}

        def linear() -> Any:
            return merge_tensors(pair, "linear", parameters=weights)

        def many() -> Any:
            return [
                merge_tensors(one, "task_arithmetic", parameters=weights, base_index=0)
                for one in small
            ]

        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            rows = self._in_turns("linear, 2 x 2048^2 bfloat16", mergekit, linear, [False])
            return rows + self._in_turns("256 outputs of 32 elements", mergekit, many, [True])
        finally:
            torch.set_num_threads(n_threads)

    def _peft(self) -> list[Row]:
        """TIES of adapters of a model: call by call, and as one call of add_weighted_adapter."""
        from peft.utils import merge_utils

        from tallies.integrations import peft

        model = _adapted(self._asked.layers)
        weights = [0.1 + 0.05 * i for i in range(N_ADAPTERS)]
        names = list(model.peft_config)
        factors = [
            [getattr(module, side)[name].weight.data for name in names]
            for module in model.modules()
            if hasattr(module, "lora_A")
            for side in ("lora_A", "lora_B")
        ]

        def calls() -> Any:
            given = torch.tensor(weights)
            return [merge_utils.ties(one, given, DENSITY) for one in factors]

        def weighted() -> Any:
            if "merged" in model.peft_config:
                model.delete_adapter("merged")
            start = _now()
            model.add_weighted_adapter(
                names, weights, "merged", combination_type="ties", density=DENSITY
            )
            self._whole.append(_now() - start)
            return [v.clone() for k, v in model.state_dict().items() if "merged" in k]

        rows = self._in_turns("PEFT ties, call by call", peft, calls, [True, False])
        self._whole: list[float] = []
        whole = self._in_turns("add_weighted_adapter, ties", peft, weighted, [True, False])
        # The time of the call alone, without the removal before it and the copies after it.
        for i, row in enumerate(whole):
            row.samples = self._whole[i + len(whole) :: len(whole)]
        for row in whole[1:]:
            pairs = zip(whole[0].samples, row.samples, strict=True)
            row.facts["ratios"] = [theirs / ours for theirs, ours in pairs]
        return rows + whole

    def _mergekit(self) -> list[Row]:
        """A whole run of mergekit-yaml in float32: process start, reading and writing included."""
        llama = checkpoints.Llama().resized(self._asked.parameters)
        home = self._asked.dir / f"llama-{llama.n_parameters}"
        base, *experts = checkpoints.ensure(home, llama)
        recipe = {
            "merge_method": "ties",
            "base_model": str(base),
            "models": [
                {"model": str(one), "parameters": {"density": DENSITY, "weight": 0.5}}
                for one in experts
            ],
            "dtype": "float32",
        }
        job = f"mergekit ties, {llama.n_parameters / 1e9:.2f}e9 parameters"
        ours = [sys.executable, "-m", "tallies.integrations.mergekit"]
        commands = {
            "alone": [sys.executable, "-m", "mergekit.scripts.run_yaml"],
            "exact": ours,
            "inexact": [*ours, "--inexact"],
        }
        rows = {who: Row(self._case(job, who)) for who in commands}
        with tempfile.TemporaryDirectory(dir=self._asked.dir) as folder:
            config, out = Path(folder) / "recipe.yml", Path(folder) / "out"
            config.write_text(json.dumps(recipe))
            for _ in range(self._asked.runs):
                for who, command in commands.items():
                    ended = child.run(
                        [*command, str(config), str(out), "--no-copy-tokenizer"],
                        {"OMP_NUM_THREADS": str(self._asked.threads)},
                    )
                    rows[who].samples.append(ended.seconds)
                    rows[who].facts["peak_bytes"] = ended.peak_bytes
                    note(f"{job}, {who}: {ended.seconds:.1f} s")
        for who in ("exact", "inexact"):
            pairs = zip(rows["alone"].samples, rows[who].samples, strict=True)
            rows[who].facts["ratios"] = [theirs / ours for theirs, ours in pairs]
        return [*rows.values()]


_TIMED = """
import importlib, time
start = time.process_time()
importlib.import_module("{module}")
print(time.process_time() - start)
ours = importlib.import_module("tallies.integrations.{name}")
print(time.process_time() - start)
ours.install()
print(time.process_time() - start)
"""


def _timed(call: Call, fresh: Call | None) -> tuple[Any, float]:
    torch.manual_seed(0)
    arguments = () if fresh is None else (fresh(),)
    start = _now()
    result = call(*arguments)
    return result, _now() - start


def _now() -> float:
    """Seconds of the cores that this process has used, which other programs lengthen least."""
    return time.process_time()


def _check(found: Any, expected: Any, exact: bool) -> None:
    pairs = zip(found, expected, strict=True) if isinstance(found, list) else [(found, expected)]
    for one, other in pairs:
        same = torch.equal(one, other) if exact else torch.allclose(one, other, 0.02, 1e-3)
        if not same and (exact or (one != other).float().mean() > 1e-3):
            raise RuntimeError("the result is not the host's")


def _adapted(n_layers: int) -> Any:
    """Return linear layers with the shapes of a model, and adapters of random factors."""
    import peft

    torch.manual_seed(0)
    layers = {}
    for i in range(n_layers):
        for name, shape in LINEAR.items():
            layer = torch.nn.Linear(*shape, bias=False, device="meta")
            # One number stands for all of a matrix that nothing reads.
            layer.weight = torch.nn.Parameter(torch.zeros(1).expand(shape[::-1]))
            layers[f"{name}_{i}"] = layer
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=[*layers])
    model = peft.get_peft_model(torch.nn.ModuleDict(layers), config, "a0")
    for i in range(1, N_ADAPTERS):
        model.add_adapter(f"a{i}", copy.deepcopy(config))
    for module in model.modules():
        for side in ("lora_A", "lora_B"):
            for linear in getattr(module, side, {}).values():
                linear.weight = torch.nn.Parameter(torch.randn(linear.weight.shape) * 0.02)
    return model


def show(rows: Sequence[Row]) -> str:
    """The rows as a table: medians, and the median of the ratios of each round."""
    body = []
    for row in rows:
        ratios = row.facts.get("ratios")
        added = row.facts.get("added_seconds")
        body.append(
            [
                str(row.case["job"]),
                str(row.case["who"]),
                f"{row.seconds * 1e3:,.1f}",
                f"{row.noise:.0%}",
                f"{statistics.median(ratios):.1f}" if ratios else "",
                f"{added * 1e3:+.1f}" if added is not None else "",
            ]
        )
    return table(["job", "host", "ms", "noise", "x alone", "ms added"], body)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.hosts", description=__doc__)
    jobs = ("imports", "small", "peft", "mergekit")
    parser.add_argument("jobs", nargs="*", default=jobs, metavar="JOB", help=", ".join(jobs))
    parser.add_argument("--parameters", type=float, default=0.15e9, help="of mergekit's model")
    parser.add_argument("--layers", type=int, default=16, help="of the model with adapters")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=5, help="samples in this process")
    parser.add_argument("--runs", type=int, default=1, help="runs of mergekit")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "tallies-bench")
    parser.add_argument("--name", default="hosts", help="of the result")
    asked = parser.parse_args(arguments)
    asked.dir.mkdir(parents=True, exist_ok=True)
    rows = Bench(asked).run()
    print(show(rows))
    print(
        save(
            asked.name,
            rows,
            {"threads": asked.threads, "repeat": asked.repeat, "load": os.getloadavg()[0]},
        )
    )


if __name__ == "__main__":
    main()
