"""Names of tasks, which are names of files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from ..messages import show

_MOST_BYTES = 128
_RESERVED = set('/\\:*?"<>|')


def check_task_names(names: Iterable[str]) -> None:
    """Raise InputError unless every name can be a file's, on its own, on any system.

    Names that differ in case alone would be one file on some.
    """
    seen: dict[str, str] = {}
    for name in names:
        problem = _problem(name)
        if problem is None and name.casefold() in seen:
            other = seen[name.casefold()]
            problem = "is given twice" if other == name else f"differs from {show(other)} in case"
        if problem is not None:
            raise InputError(
                f"task {show(name)}: {problem}; expected a name of its own, such as 'math', "
                "without path separators, of at most 128 bytes"
            )
        seen[name.casefold()] = name


def check_new_task(store: Path, known: Iterable[str], task: str) -> None:
    """Raise InputError unless a store with the known tasks can have one of this name as well."""
    before = list(known)
    if task in before:
        raise InputError(
            f"{store}: has task {show(task)} already; take another name, or remove that task first "
            f"('tallies remove {store} {task}')"
        )
    check_task_names([*before, task])


def _problem(name: object) -> str | None:
    if not isinstance(name, str):
        return "is not text"
    if not name or name != name.strip():
        return "is empty, or begins or ends with a space"
    if name.startswith(".") or name.endswith("."):
        return "begins or ends with a dot"
    if any(c in _RESERVED or not c.isprintable() for c in name):
        return "has a character that names of files lack"
    if len(name.encode("utf-8", "surrogatepass")) > _MOST_BYTES:
        return "is too long"
    return None
