"""Runs a command and prints, as JSON, its output, time, peak resident memory and bytes read.

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
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    seconds: float
    """From before its start to after its end."""
    peak_bytes: int
    """Largest resident set, mapped files included."""
    cpu_seconds: float
    """Processor time, in the program and in the kernel for it."""
    read_bytes: int | None
    """Bytes of all its reads as the kernel counts them, cached or not; None where it does not."""
    status: int
    output: str


def run(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    cgroup: Path | None = None,
) -> Ended:
    """Run a command, in a control group if one is given.

    Raises:
        RuntimeError: The command fails; with its standard error.
    """
    launcher = [sys.executable, "-I", "-S", __file__, str(cgroup or ""), *command]
    done = subprocess.run(
        launcher, capture_output=True, text=True, env={**os.environ, **(environment or {})}
    )
    ended = Ended(**json.loads(done.stdout))
    if ended.status != 0:
        raise RuntimeError(f"{' '.join(command)}: exit status {ended.status}: {done.stderr}")
    return ended


def _bytes_read(process: int) -> int | None:
    """Return the bytes that a process has read once it has ended and before it is waited for."""
    try:
        with open(f"/proc/{process}/io") as counts:
            return int(next(line for line in counts if line.startswith("rchar:")).split()[1])
    except OSError:
        return None


def _main(cgroup: str, *command: str) -> None:
    if cgroup:
        with open(os.path.join(cgroup, "cgroup.procs"), "w") as members:
            members.write(str(os.getpid()))
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    seconds = time.perf_counter() - start
    n_read = _bytes_read(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    ended = {
        "seconds": seconds,
        "peak_bytes": usage.ru_maxrss << 10,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "read_bytes": n_read,
        "status": os.waitstatus_to_exitcode(status),
        "output": output,
    }
    print(json.dumps(ended))


if __name__ == "__main__":
    _main(*sys.argv[1:])
