"""Decides how a run reads its inputs: through the page cache of the system, or past it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ..errors import InputError
from ..messages import either, show
from ..spec.choices import Io

# The native codes, Io of csrc/stream/file.h.
_BUFFERED: Final = 0
_DIRECT: Final = 1
_DIRECT_UNLESS_CACHED: Final = 2

# The share of the memory that inputs may fill: the output and all else go there as well.
_SHARE: Final = 0.5


def io_code(io: str, paths: Iterable[str | os.PathLike[str]]) -> int:
    """Return the native code of how a run reads its inputs.

    ``auto`` reads past the page cache what is not in it, if all inputs take more than half of the
    memory. Else a second pass, or the next run, finds them in it.

    Args:
        io: ``"auto"``, ``"buffered"`` or ``"direct"``.
        paths: The input files.

    Raises:
        InputError: ``io`` is another word.
    """
    if io not in (*Io,):
        raise InputError(f"io: found {show(io)}, expected {either([*Io])}")
    if io != Io.AUTO:
        return _DIRECT if io == Io.DIRECT else _BUFFERED
    room = available_bytes()
    n_bytes = sum(os.path.getsize(path) for path in paths if os.path.exists(path))
    return _BUFFERED if room is None or n_bytes <= _SHARE * room else _DIRECT_UNLESS_CACHED


def available_bytes() -> int | None:
    """Return the memory that new pages may take, or None if the system does not say.

    The limits of the control groups around this process count.
    """
    for line in _lines("/proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return min([int(value.split()[0]) << 10, *_limits()])
    return None


def _limits() -> Iterable[int]:
    """Yield the limits of memory of the control groups around this process."""
    for line in _lines("/proc/self/cgroup"):
        _, controllers, place = line.rstrip("\n").split(":", 2)
        if controllers in ("", "memory"):
            top = Path("/sys/fs/cgroup", controllers)
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            group = top / place.strip("/")
            for one in (group, *group.parents):
                for found in _lines(one / name):
                    if found.strip().isdigit():
                        yield int(found)
                if one == top:
                    break


def _lines(path: str | os.PathLike[str]) -> list[str]:
    """Return the lines of a file of the system; none if it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.readlines()
    except OSError:
        return []
