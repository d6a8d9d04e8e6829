"""Word messages: shorten and count what was found, suggest what was meant, and lay out lines."""

from __future__ import annotations

import difflib
import heapq
import re
import reprlib
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import Final

_FEW: Final = 8
"""The most names of a model that a message lists."""

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
    told = f"known: {', '.join(names)}" if names else "there are none"
    return f"{show(word)} is not known{hint} ({told})"


def unknown_of_many(word: str, known: Iterable[str], noun: str = "tensor") -> str:
    """Return the same with the number of names and the nearest three, where they are many.

    >>> unknown_of_many("h.7.wieght", [f"h.{i}.weight" for i in range(300)])
    "'h.7.wieght' is not known (300 tensors; the nearest: h.7.weight, h.70.weight, h.71.weight)"
    """
    names = list(known)
    if len(names) <= _FEW:
        return unknown(word, names)
    near = heapq.nlargest(3, names, key=lambda name: _n_shared(word, name))
    told = f"the nearest: {', '.join(near)}"
    return f"{show(word)} is not known ({counted(len(names), noun)}; {told})"


def _n_shared(one: str, other: str) -> int:
    """Return how many letters two names share at their starts and at their ends.

    Unlike the ratio of ``difflib``, it is quick for the names of a large model.
    """
    starts = zip(one, other, strict=False)
    ends = zip(reversed(one), reversed(other), strict=False)
    return sum(
        len(list(takewhile(lambda pair: pair[0] == pair[1], both))) for both in (starts, ends)
    )


def some(names: Sequence[str]) -> str:
    """Return the first three names of a list, for a message."""
    return ", ".join(map(show, names[:3])) + (", ..." if len(names) > 3 else "")


def headline(method: str, semantics: str, n_models: int) -> str:
    """Return the first line of the plan and of the report of a merge."""
    return f"{method} ({semantics} semantics) of {counted(n_models, 'model')}"


COLUMNS: Final = 80
"""The columns that text takes which goes elsewhere than to a terminal."""
_LABEL: Final = 11
_LEAST_ROOM: Final = 20


def labelled(label: str, text: str, screen: int | None = None) -> str:
    """Return a label and, beside it, text on as many lines as it takes.

    Lines end behind commas and the like, so that a program finds a fact on one line; only a fact
    that is longer than a line is wrapped between words.

    Args:
        label: The word in the first column.
        text: The text.
        screen: The columns of a terminal, on which words that are too long are shortened in the
            middle. None where the text may go to another program: there a word stays whole.
    """
    room = max((screen or COLUMNS) - _LABEL, _LEAST_ROOM)
    if screen is not None:
        text = " ".join(shortened(word, room) for word in text.split(" "))
    lines = [""]
    for fact in re.split(r"(?<=[,;:]) ", text):
        if len(lines[-1]) + 1 + len(fact) <= room and lines[-1]:
            lines[-1] += f" {fact}"
            continue
        start = lines.pop() if not lines[-1] or len(fact) > room else None
        joined = f"{start} {fact}" if start else fact
        lines += textwrap.wrap(joined, room, break_long_words=False, break_on_hyphens=False)
    return "\n".join(
        f"{label if number == 0 else '':<{_LABEL - 1}} {line}".rstrip()
        for number, line in enumerate(lines or [""])
    )


def warned(warning: str, screen: int | None = None) -> str:
    """Return a warning as a line of a summary: whole where another program may look for its words.

    Args:
        warning: The warning.
        screen: The columns of a terminal, or None.
    """
    return (
        f"{'warning':<{_LABEL}}{warning}"
        if screen is None
        else labelled("warning", warning, screen)
    )


def shortened(text: str, most: int) -> str:
    """Return text with its middle left out where it is longer than ``most`` characters.

    >>> shortened("model.layers.31.mlp.up_proj.weight", 20)
    'model.la...oj.weight'
    """
    if len(text) <= most:
        return text
    tail = most // 2 - 1
    return f"{text[: most - tail - 3]}...{text[-tail:]}"
