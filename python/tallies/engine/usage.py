"""The time, the bytes and the memory that a run used."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..messages import labelled
from ..sizes import format_size

Progress = Callable[[int, int], object] | bool | None
"""A function that is called with the bytes moved so far and the bytes to move in all.

A caller may give True for a bar instead, and False or None for neither.
"""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The time, the bytes and the memory that a run used: a part of every report.

    A report inherits from this class, so that it has these fields as its own, and writes them
    behind its own.
    """

    bytes_read: int = 0
    bytes_written: int = 0
    bytes_direct: int = 0
    """Bytes among those read that did not go through the page cache of the system."""
    seconds: float = 0.0
    gb_per_second: float = 0.0
    """Bytes read and written, in units of 10^9, over ``seconds``."""
    peak_memory_bytes: int = 0
    """Largest resident memory of the process so far."""
    threads: int = 0

    def to_json_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        data = asdict(self)
        used = {name: data.pop(name) for name in Usage.__dataclass_fields__}
        return data | used


def measure(
    start: float, bytes_read: int, bytes_written: int, threads: int, bytes_direct: int = 0
) -> dict[str, Any]:
    """Return the fields of ``Usage`` of a run that ends now.

    Args:
        start: ``time.perf_counter()`` at the start of the run.
        bytes_read: Bytes that the run read.
        bytes_written: Bytes that it wrote.
        threads: Threads that it used.
        bytes_direct: Bytes that it read past the page cache.

    Returns:
        Keyword arguments of ``Usage`` and of every report that inherits from it.
    """
    seconds = time.perf_counter() - start
    moved = bytes_read + bytes_written
    return asdict(
        Usage(
            bytes_read=bytes_read,
            bytes_written=bytes_written,
            bytes_direct=bytes_direct,
            seconds=seconds,
            gb_per_second=moved / 1e9 / seconds,
            peak_memory_bytes=peak_memory_bytes(),
            threads=threads,
        )
    )


def done_line(run: Usage, screen: int | None = None) -> str:
    """Return the last line of a report: bytes, time and memory; ``screen`` as in ``labelled``."""
    return labelled(
        "done",
        f"{format_size(run.bytes_read + run.bytes_written)} in {run.seconds:.2f} s "
        f"({run.gb_per_second:.2f} GB/s), peak memory {format_size(run.peak_memory_bytes)}",
        screen,
    )


class Advance:
    """Counts the bytes that a run moves and tells ``progress`` of them, up to ``whole`` bytes.

    Args:
        progress: The function to tell; anything else is told nothing.
        whole: The bytes that the run moves in all, if each search takes one pass.
    """

    def __init__(self, progress: Progress, whole: int) -> None:
        self._progress = progress if callable(progress) else None
        self._whole = whole
        self._moved = 0

    def __bool__(self) -> bool:
        return self._progress is not None

    def __call__(self, n_bytes: int) -> None:
        """Note that ``n_bytes`` more were moved."""
        self._moved += n_bytes
        if self._progress is not None:
            self._progress(min(self._moved, self._whole), self._whole)

    def finish(self) -> None:
        """Tell of all that no pass moved, such as headers."""
        self(max(self._whole - self._moved, 0))


def peak_memory_bytes() -> int:
    """Return the largest resident memory of the process so far."""
    # The system's own high-water mark: that of getrusage begins with the parent's.
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
