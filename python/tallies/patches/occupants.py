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
    wanted = {os.path.realpath(path): path for path in paths}
    found: dict[Path, list[str]] = {}
    for process in _others():
        for name in sorted({*_open(process) & wanted.keys(), *_mapped(process, wanted)}):
            found.setdefault(wanted[name], []).append(f"{process.name} ({_name(process)})")
    return found


def _others() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir("/proc")):
            if name.isdigit() and int(name) != os.getpid():
                yield Path("/proc", name)


def _open(process: Path) -> set[str]:
    """Return the files that a process has open."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in os.scandir(process / "fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(entry.path))
    return found


def _mapped(process: Path, names: Iterable[str]) -> Iterator[str]:
    """Yield the files among some that a process has in its memory."""
    with contextlib.suppress(OSError):
        text = (process / "maps").read_bytes()
        yield from (name for name in names if b" " + os.fsencode(name) + b"\n" in text)


def _name(process: Path) -> str:
    with contextlib.suppress(OSError):
        return (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
    return "?"
