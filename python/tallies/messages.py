"""Word messages: shorten and count what was found, and suggest what was meant."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

_BRIEF: Final = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 120

show: Final[Callable[[object], str]] = _BRIEF.repr
"""``repr`` on one line of bounded length, for text that strangers wrote."""


def counted(n: int, noun: str) -> str:
    """Return a number and its noun: ``1 model``, ``2 models``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def either(names: Sequence[str], last: str = "or") -> str:
    """Return a list in words: ``F32``, ``F32 or BF16``, ``F32, BF16 or F16``."""
    *others, end = names
    return f"{', '.join(others)} {last} {end}" if others else end


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'density'?"``, or nothing when no known word is near.

    Case and ``-`` for ``_`` do not count as differences, so ``Task-Arithmetic`` finds
    ``task_arithmetic``.
    """
    folded = {_fold(name): name for name in known}
    # 0.7 of the letters: a slip of the fingers, not another word ('dare_ties' for 'ties').
    near = difflib.get_close_matches(_fold(word), folded, n=1, cutoff=0.7)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


def _fold(word: str) -> str:
    return word.lower().replace("-", "_")


def unknown(word: object, known: Iterable[str]) -> str:
    """Return ``'desnity' is not known; did you mean 'density'? (known: density, weight)``."""
    names = list(known)
    hint = did_you_mean(word, names) if isinstance(word, str) else ""
    return f"{show(word)} is not known{hint} (known: {', '.join(names)})"


def some(names: Sequence[str]) -> str:
    """Return the first three names of a list, for a message."""
    return ", ".join(map(show, names[:3])) + (", ..." if len(names) > 3 else "")
