"""Times what a user waits before anything happens: the interpreter, the import, the help.

python -m bench.startup [--repeat N] [--name NAME]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .support import child
from .support.harness import Row, note, save, table

_COMMANDS = {
    "python -c ''": ["-c", ""],
    "import tallies": ["-c", "import tallies"],
    "import tallies.checkpoint": ["-c", "import tallies.checkpoint"],
    "import tallies.kernels": ["-c", "import tallies.kernels"],
    "tallies --help": ["-m", "tallies", "--help"],
    "tallies methods": ["-m", "tallies", "methods"],
}


def run(repeat: int) -> list[Row]:
    """Rows of all commands, whose samples are taken in turns; the first round warms the cache."""
    rows = [Row({"command": name}) for name in _COMMANDS]
    for number in range(repeat + 1):
        for row, command in zip(rows, _COMMANDS.values(), strict=True):
            ended = child.run([sys.executable, *command])
            if "--help" in command and "merge" not in ended.output:
                raise RuntimeError(f"{row.case['command']}: the help does not name the commands")
            if number > 0:
                row.samples.append(ended.seconds)
                row.facts["peak_bytes"] = ended.peak_bytes
    return rows


def show(rows: Sequence[Row]) -> str:
    """The rows as a table, with what each adds to the bare interpreter."""
    bare = rows[0].seconds
    body = [
        [
            str(row.case["command"]),
            f"{row.seconds * 1e3:.1f}",
            f"{(row.seconds - bare) * 1e3:+.1f}",
            f"{row.facts['peak_bytes'] / 2**20:.0f}",
        ]
        for row in rows
    ]
    return table(["command", "ms", "over python", "peak MiB"], body)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--repeat", type=int, default=20, help="samples; default: 20")
    parser.add_argument("--name", default="startup", help="of the result; default: startup")
    asked = parser.parse_args(arguments)
    rows = run(asked.repeat)
    print(show(rows))
    note(f"written: {save(asked.name, rows, {'repeat': asked.repeat}).name}")


if __name__ == "__main__":
    main()
