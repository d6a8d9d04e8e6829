"""Times merges with the checks of every byte and without, in seconds of all cores together.

python -m bench.checks [--repeat N] [--layers N] [--name NAME] [--directory DIR]

Fingerprints of inputs and outputs are switched off for the comparison. The search for values that
are not finite is a comparison in the registers that write a block, and cannot be switched off: it
is in both columns. Sizes and times of files are asked for in both as well.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import tallies
from tallies.engine.combining import Combining
from tallies.merging.result import MergeResult

from .support import checkpoints, layers
from .support.checkpoints import Llama
from .support.harness import Row, table

_MOST = 0.1
"""The share of a merge's time that the checks may take."""
_CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("linear", {}),
    ("task_arithmetic", {}),
    ("ties", {"density": 0.2}),
    ("ties", {"density": 0.2, "scope": "tensor"}),
    ("dare_ties", {}),
    ("sce", {}),
)


@contextlib.contextmanager
def _unchecked() -> Iterator[None]:
    """Make merges that find no fingerprints, and report none."""
    run = Combining.__init__

    def begin(self: Combining, *arguments: Any, **options: Any) -> None:
        run(self, *arguments, **{**options, "fingerprints": False})

    def nothing(self: Any) -> list[str]:
        return [""] * len(self.plan.models)

    with (
        mock.patch.object(Combining, "__init__", begin),
        mock.patch.object(MergeResult, "_fingerprints", nothing),
    ):
        yield


def run(llama: Llama, directory: Path, repeat: int) -> list[Row]:
    """Rows of all cases with and without, in turns; the first round warms the cache."""
    base, *experts = map(str, checkpoints.ensure(directory, llama))
    rows = [
        Row({"method": method, **{k: str(v) for k, v in parameters.items()}, "checks": checks})
        for method, parameters in _CASES
        for checks in (True, False)
    ]
    cases = [case for case in _CASES for _ in range(2)]
    with tempfile.TemporaryDirectory(dir=directory) as out:
        for number in range(repeat + 1):
            for row, (method, parameters) in zip(rows, cases, strict=True):
                recipe = {
                    "merge_method": method,
                    "models": [{"model": expert} for expert in experts],
                    "parameters": parameters,
                }
                if method != "linear":
                    recipe["base_model"] = base
                with contextlib.nullcontext() if row.case["checks"] else _unchecked():
                    start = time.process_time()
                    tallies.merge(recipe, f"{out}/merged", overwrite=True)
                    if number > 0:
                        row.samples.append(time.process_time() - start)
    return rows


def show(rows: Sequence[Row]) -> str:
    """Return a table of both times and their ratio."""
    body = []
    for checked, unchecked in zip(rows[::2], rows[1::2], strict=True):
        share = 1 - unchecked.seconds / checked.seconds
        checked.facts["share"] = share
        body.append(
            [
                ", ".join(str(value) for key, value in checked.case.items() if key != "checks"),
                f"{checked.seconds:.2f}",
                f"{unchecked.seconds:.2f}",
                f"{share:.1%}",
                f"{_MOST:.0%}",
                f"{max(checked.noise, unchecked.noise):.0%}",
            ]
        )
    return table(["method", "s", "s without", "checks", "allowed", "noise"], body)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    layers.command(arguments, "checks", __doc__, 7, run, show)


if __name__ == "__main__":
    main()
