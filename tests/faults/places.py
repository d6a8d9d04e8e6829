"""The content of a place in which a job failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.support.command import tree

Tree = dict[str, bytes | str | None]
_TIMED: Final = ("tallies.json", "sweep.json")  # hold the seconds of a run


def visible(folder: Path) -> Tree:
    """Return all that is not hidden, but for reports of times."""
    return {
        name: data
        for name, data in tree(folder).items()
        if Path(name).name not in _TIMED and not _is_hidden(name)
    }


def hidden(folder: Path) -> list[str]:
    """Return the names of what is hidden."""
    return [name for name in tree(folder) if _is_hidden(name)]


def numbers(n_calls: int, most: int = 200) -> Sequence[int]:
    """Return the numbers of all calls, or of ``most`` that lie evenly among them."""
    if n_calls <= most:
        return range(n_calls)
    return [i * (n_calls - 1) // (most - 1) for i in range(most)]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)
