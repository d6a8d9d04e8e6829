"""Finds other processes that have files open or in their memory, as far as the system says."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def occupants(paths: Iterable[Path]) -> dict[Path, list[str]]:
    """Return the processes, as ``PID (NAME)``, that have each file open or mapped.

    This process is left out, and so are those of other users, which the system does not show.
    """
    wanted = {}
    for path in paths:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            wanted[status.st_dev, status.st_ino] = path
    found: dict[Path, list[str]] = {}
    for process in _others():
        for path in sorted({wanted[one] for one in _files(process) if one in wanted}):
            found.setdefault(path, []).append(f"{process.name} ({_name(process)})")
    return found


def _others() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir("/proc")):
            if name.isdigit() and int(name) != os.getpid():
                yield Path("/proc", name)


def _files(process: Path) -> Iterator[tuple[int, int]]:
    """Yield device and number of the files that a process has open or mapped."""
    for folder in ("fd", "map_files"):
        with contextlib.suppress(OSError):
            for entry in os.scandir(process / folder):
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    yield status.st_dev, status.st_ino


def _name(process: Path) -> str:
    with contextlib.suppress(OSError):
        return (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
    return "?"
