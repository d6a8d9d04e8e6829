"""Times what a user waits before anything happens, and whole commands on small models.

python -m bench.startup [--repeat N] [--name NAME]

The models have ten million parameters in bfloat16, a base and three experts, and lie in the page
cache. A command is timed from the start of its process to the end.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .support import checkpoints, child
from .support.checkpoints import Llama
from .support.harness import Row, note, save, table

ASKED_MERGE = 0.25
"""Seconds that the whole command of a small merge may take."""

SMALL = Llama(
    num_hidden_layers=7,
    vocab_size=16384,
    hidden_size=256,
    num_attention_heads=4,
    num_key_value_heads=1,
    intermediate_size=896,
)

_TALLIES = ("-m", "tallies")
_STARTS = {
    "python -c ''": ["-c", ""],
    "import tallies": ["-c", "import tallies"],
    "import tallies.checkpoint": ["-c", "import tallies.checkpoint"],
    "import tallies.kernels": ["-c", "import tallies.kernels"],
    "tallies --help": [*_TALLIES, "--help"],
    "tallies methods": [*_TALLIES, "methods"],
}


def small_commands(home: Path, llama: Llama) -> dict[str, list[str]]:
    """Make models and a store in a directory, and return commands that work on them by name."""
    base, *experts = checkpoints.ensure(home / "models", llama)
    request = ["--method", "ties", "--base", str(base)]
    request += [word for one in experts for word in ("--model", str(one))]
    tasks = [word for one in experts for word in ("--task", f"{one.name}={one}")]
    store = str(home / "store")
    child.run([sys.executable, *_TALLIES, "pack", "--base", str(base), *tasks, "--out", store])
    merged, unpacked = str(home / "merged"), str(home / "unpacked")
    return {
        "tallies plan": [*_TALLIES, "plan", *request],
        "tallies merge": [*_TALLIES, "merge", *request, "--out", merged, "--overwrite"],
        "tallies unpack": [*_TALLIES, "unpack", store, experts[0].name, unpacked, "--overwrite"],
    }


def run(repeat: int, llama: Llama = SMALL) -> list[Row]:
    """Rows of all commands, whose samples are taken in turns; the first round warms the cache."""
    with tempfile.TemporaryDirectory() as home:
        commands = {**_STARTS, **small_commands(Path(home), llama)}
        rows = [Row({"command": name}) for name in commands]
        for number in range(repeat + 1):
            for row, command in zip(rows, commands.values(), strict=True):
                ended = child.run([sys.executable, *command])
                if "--help" in command and "merge" not in ended.output:
                    raise RuntimeError(
                        f"{row.case['command']}: the help does not name the commands"
                    )
                if number > 0:
                    row.samples.append(ended.seconds)
                    row.facts.setdefault("processor_samples", []).append(ended.processor_seconds)
                    row.facts["peak_bytes"] = ended.peak_bytes
    for row in rows:
        row.facts["processor_seconds"] = statistics.median(row.facts["processor_samples"])
    return rows


def show(rows: Sequence[Row]) -> str:
    """The rows as a table, with what each adds to the bare interpreter."""
    bare = rows[0].seconds
    body = [
        [
            str(row.case["command"]),
            f"{row.seconds * 1e3:.1f}",
            f"{(row.seconds - bare) * 1e3:+.1f}",
            f"{row.facts['processor_seconds'] * 1e3:.1f}",
            f"{row.facts['peak_bytes'] / 2**20:.0f}",
        ]
        for row in rows
    ]
    return table(["command", "ms", "over python", "processor ms", "peak MiB"], body)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--repeat", type=int, default=20, help="samples; default: 20")
    parser.add_argument("--name", default="startup", help="of the result; default: startup")
    asked = parser.parse_args(arguments)
    rows = run(asked.repeat)
    print(show(rows))
    settings = {
        "repeat": asked.repeat,
        "parameters": SMALL.n_parameters,
        "asked_seconds_of_merge": ASKED_MERGE,
    }
    note(f"written: {save(asked.name, rows, settings).name}")


if __name__ == "__main__":
    main()
