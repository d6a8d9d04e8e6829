"""The control groups of Linux around this process, in which containers set limits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path


def group_values(
    controller: str, unified: Sequence[str], own: Sequence[str]
) -> Iterator[list[str]]:
    """Yield the words of some files of each group around this process that has them.

    Args:
        controller: ``memory`` or ``cpu``.
        unified: The names of the files in version 2.
        own: Their names in version 1, where a controller has groups of its own.
    """
    for line in lines("/proc/self/cgroup"):
        _, controllers, place = line.rstrip("\n").split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = Path("/sys/fs/cgroup", controllers)
        group = top / place.strip("/")
        for one in (group, *group.parents):
            names = own if controllers else unified
            if words := [word for name in names for word in " ".join(lines(one / name)).split()]:
                yield words
            if one == top:
                break


def lines(path: str | os.PathLike[str]) -> list[str]:
    """Return the lines of a file of the system; none if it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.readlines()
    except OSError:
        return []
