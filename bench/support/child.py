"""Runs a command and prints, as JSON, its output, wall time and peak resident memory.

A program of its own, started without site packages: the kernel lets a process inherit the peak of
the one that it is forked from, so one that holds arrays itself cannot measure its children.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    seconds: float
    """From before its start to after its end."""
    processor_seconds: float
    """The processor's time for all its threads, the system's part as well."""
    peak_bytes: int
    """Largest resident set, mapped files included."""
    status: int
    output: str


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command; RuntimeError with its standard error when it fails."""
    launcher = [sys.executable, "-I", "-S", __file__, *command]
    done = subprocess.run(
        launcher, capture_output=True, text=True, env={**os.environ, **(environment or {})}
    )
    ended = Ended(**json.loads(done.stdout))
    if ended.status != 0:
        raise RuntimeError(f"{' '.join(command)}: exit status {ended.status}: {done.stderr}")
    return ended


def _main(command: list[str]) -> None:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    ended = {
        "seconds": seconds,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss << 10,
        "status": os.waitstatus_to_exitcode(status),
        "output": output,
    }
    print(json.dumps(ended))


if __name__ == "__main__":
    _main(sys.argv[1:])
