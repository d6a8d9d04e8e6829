"""Times elementwise methods beside TIES in as many passes, in seconds of all cores together.

python -m bench.stages [--repeat N] [--layers N] [--name NAME] [--directory DIR]

Seconds of work do not depend on who else uses the machine as seconds on the clock do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import tallies
from tallies.engine.surveys.trims import Trims

from .support import checkpoints, layers
from .support.checkpoints import Llama
from .support.harness import Row, table

_ONE_PASS: dict[str, Any] = {"density": 1.0}
_TWO_PASSES: dict[str, Any] = {"density": 0.2, "scope": "tensor"}
_CASES: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("ties", _ONE_PASS, 1),
    ("dare_linear", {}, 1),
    ("dare_ties", {}, 1),
    ("breadcrumbs", {}, 1),
    ("breadcrumbs_ties", {}, 1),
    ("della_linear", {}, 1),
    ("della", {}, 1),
    ("ram", {}, 1),
    ("emr", {}, 1),
    ("ties", _TWO_PASSES, 2),
    ("dare_linear", {"rescale": "l1"}, 2),
    ("dare_ties", {"rescale": "l1"}, 2),
    ("ramplus", {}, 2),
    ("breadcrumbs", {"scope": "tensor"}, 2),
    ("sce", {}, 2),
    ("sce", {"select_topk": 0.5}, 3),
    ("pcb", {}, 3),
)
"""Method, parameters, and how many passes it makes over the models."""


def _bytes_read() -> int:
    """Return the bytes of files that this process has read, from the page cache or not."""
    return int(Path("/proc/self/io").read_text().split()[1])


def run(llama: Llama, directory: Path, repeat: int) -> list[Row]:
    """Rows of all cases, whose samples are taken in turns; the first round warms the cache."""
    base, *experts = map(str, checkpoints.ensure(directory, llama))
    n_bytes = sum(p.stat().st_size for one in (base, *experts) for p in Path(one).glob("*.safe*"))
    rows = [
        Row({"method": method, **{k: str(v) for k, v in parameters.items()}, "passes": passes})
        for method, parameters, passes in _CASES
    ]
    with tempfile.TemporaryDirectory(dir=directory) as out:
        for number in range(repeat + 1):
            for row, (method, parameters, _) in zip(rows, _CASES, strict=True):
                recipe = {
                    "merge_method": method,
                    "base_model": base,
                    "models": [{"model": expert} for expert in experts],
                    "parameters": parameters,
                }
                start, before = time.process_time(), _bytes_read()
                # TIES is the yardstick of two passes, and would prove a guess in one.
                with mock.patch.object(Trims, "can_guess", False):
                    tallies.merge(recipe, f"{out}/merged", overwrite=True)
                if number > 0:
                    row.samples.append(time.process_time() - start)
                row.facts["reads"] = (_bytes_read() - before) / n_bytes
    for row in rows:
        # Passes may find what they read before in memory.
        if not 0.99 < row.facts["reads"] < row.case["passes"] + 0.1:
            raise SystemExit(f"{row.case} read the models {row.facts['reads']:.2f} times")
    return rows


def show(rows: Sequence[Row]) -> str:
    """The rows as a table, with the ratio to TIES in as many passes.

    TIES takes one or two; three are counted as two and what the second took more than one.
    """
    ties = {row.case["passes"]: row.seconds for row in rows if row.case["method"] == "ties"}
    ties[3] = 2 * ties[2] - ties[1]
    body = [
        [
            ", ".join(str(value) for key, value in row.case.items() if key != "passes"),
            f"{row.facts['reads']:.2f}",
            f"{row.seconds:.2f}",
            f"{row.seconds / ties[row.case['passes']]:.2f}",
            f"{row.noise:.0%}",
        ]
        for row in rows
    ]
    return table(["method", "reads", "s", "x ties", "noise"], body)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    layers.command(arguments, "stages", __doc__, 5, run, show)


if __name__ == "__main__":
    main()
