"""Rename tensors by prefixes of their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar

from ..errors import InputError
from ..messages import did_you_mean, show

T = TypeVar("T")

_BORDERS: Final = (".", "/")
"""The characters behind a component: of a name, and of the sub-directory in front of it."""


def renamed(label: str, tensors: Mapping[str, T], rename: Mapping[str, str]) -> dict[str, T]:
    """Return tensors under new names, in the order of the names.

    A prefix consists of whole components of a name (``model`` fits ``model.norm.weight``, and not
    ``models.norm.weight``), with or without the dot behind it. The longest prefix that fits a name
    is replaced; the empty one fits all names. Behind ``*.`` stand components that are replaced
    wherever they are in a name, before the prefixes are looked at.

    Args:
        label: The model in messages.
        tensors: Tensors by name.
        rename: New prefixes by old ones.

    Raises:
        InputError: A prefix fits no name, or two tensors get one name.
    """
    anywhere = {_stem(old[2:]): new for old, new in rename.items() if old.startswith("*.")}
    rules = {_stem(old): new for old, new in rename.items() if not old.startswith("*.")}
    if len(rules) + len(anywhere) < len(rename):
        raise InputError(f"{label}: rename: found one prefix twice, with and without its dot")
    stored = {name: _replaced_anywhere(name, anywhere) for name in tensors}
    found: dict[str, str] = {}
    for name, inner in stored.items():
        old = max((one for one in rules if _fits(one, inner)), key=len, default=None)
        new = inner if old is None else _replaced(inner, old, rules[old])
        if not new:
            raise InputError(f"{label}: rename leaves nothing of {show(name)}; name it as a whole")
        if new in found:
            raise InputError(
                f"{label}: rename makes one name, {show(new)}, of {show(found[new])} and "
                f"{show(name)}; rename one of them to another name"
            )
        found[new] = name
    for old in rename:
        is_used = (
            any(_has(_stem(old[2:]), name) for name in tensors)
            if old.startswith("*.")
            else any(_fits(_stem(old), name) for name in stored.values())
        )
        if not is_used:
            hint = did_you_mean(_stem(old), _prefixes(tensors)) or _some_prefixes(tensors)
            raise InputError(f"{label}: rename: no tensor's name begins with {show(old)}{hint}")
    return {new: tensors[found[new]] for new in sorted(found)}


def _stem(prefix: str) -> str:
    return prefix[:-1] if prefix.endswith(_BORDERS) else prefix


def _fits(stem: str, name: str) -> bool:
    return not stem or name == stem or name.startswith(tuple(stem + one for one in _BORDERS))


def _replaced(name: str, stem: str, new: str) -> str:
    rest = name[len(stem) + 1 :] if stem else name
    if not rest:
        return _stem(new)
    if not new or new.endswith(_BORDERS):
        return new + rest
    return f"{new}{name[len(stem)] if stem else '.'}{rest}"


def _has(components: str, name: str) -> bool:
    return f".{components}." in f".{name}."


def _replaced_anywhere(name: str, rules: Mapping[str, str]) -> str:
    for components, new in rules.items():
        between = f".{_stem(new)}." if new else "."
        while _has(components, name):
            before, _, after = f".{name}.".partition(f".{components}.")
            name = f"{before}{between}{after}".strip(".")
            if new:
                break
    return name


def _prefixes(names: Iterable[str]) -> list[str]:
    """List all beginnings of names that consist of whole components."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        found.update(dict.fromkeys(".".join(parts[:n]) for n in range(1, len(parts) + 1)))
    return [*found]


def _some_prefixes(names: Mapping[str, Any]) -> str:
    first = dict.fromkeys(name.split(".")[0] for name in names)
    return f"; expected the beginning of a name, such as {', '.join(map(repr, [*first][:4]))}"
