"""Time, bytes and memory that a run used."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Callable
from typing import Protocol

Progress = Callable[[int, int], object]
"""Called with the bytes moved so far and the bytes to move in all."""


class Run(Protocol):
    """What a report knows of the run that it is about."""

    @property
    def bytes_read(self) -> int: ...
    @property
    def bytes_written(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def gb_per_second(self) -> float: ...
    @property
    def peak_memory_bytes(self) -> int: ...


def done_line(run: Run) -> str:
    """The last line of a report: bytes, time and memory."""
    return (
        f"done       {(run.bytes_read + run.bytes_written) / 1e9:.2f} GB in {run.seconds:.2f} s "
        f"({run.gb_per_second:.2f} GB/s), peak memory {run.peak_memory_bytes / 2**20:.0f} MiB"
    )


def peak_memory_bytes() -> int:
    """Largest resident memory of the process so far."""
    # The system's own high-water mark: that of getrusage begins with the parent's.
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
