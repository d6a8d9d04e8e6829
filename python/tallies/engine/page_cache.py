"""Decides how a run reads its inputs: through the page cache of the system, or past it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from ..errors import InputError
from ..messages import either, show
from ..spec.choices import Io
from . import control_groups

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
    for line in control_groups.lines("/proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return min([int(value.split()[0]) << 10, *_limits()])
    return None


def _limits() -> Iterable[int]:
    """Yield the limits of memory of the control groups around this process."""
    for found in control_groups.group_values("memory", ["memory.max"], ["memory.limit_in_bytes"]):
        if found[0].isdigit():
            yield int(found[0])
