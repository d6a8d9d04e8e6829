"""Find the renaming by which one model's names become another's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import takewhile

from ..errors import InputError
from .rename import renamed

_MOST_RULES = 8
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
"""Components that torch's wrappers put into the names of the modules inside."""

_DEPTHS = ((0, 0), (0, 1), (1, 1), (2, 2), (3, 3))
"""Components behind a prefix that tell it from others, and those behind an empty prefix."""


@dataclass(frozen=True)
class Renaming:
    """Prefixes to replace, and the names that differ all the same."""

    rules: Mapping[str, str]
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()


def find_renaming(
    names: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    may_differ: Collection[str] = (),
) -> Renaming | None:
    """Find the shortest renaming of prefixes that brings names nearest to the expected ones.

    Args:
        names: The shapes of the model's tensors by name.
        expected: The same of the model to match.
        may_differ: Names that either model may lack.

    Returns:
        The renaming; None where none settles at least half of the differences.
    """
    extra = [name for name in names if name not in expected and name not in may_differ]
    missing = [name for name in expected if name not in names and name not in may_differ]
    if not extra or not missing:
        return None
    pairs = _pairs(extra, missing, names, expected)
    held = {part for name in extra for part in name.split(".")}
    wrapped = {f"*.{one}.": "" for one in _WRAPPERS if one in held}
    best: tuple[tuple[int, int], Renaming] | None = None
    for rules in (*(_rules(pairs, *depths) for depths in _DEPTHS), wrapped):
        if not 0 < len(rules) <= _MOST_RULES:
            continue
        try:
            new = renamed("", names, rules)
        except InputError:
            continue
        left = Renaming(
            rules,
            tuple(one for one in expected if one not in new and one not in may_differ),
            tuple(one for one in new if one not in expected and one not in may_differ),
        )
        rank = (len(left.missing) + len(left.extra), len(rules))
        if best is None or rank < best[0]:
            best = (rank, left)
    if best is None or 2 * best[0][0] > len(extra) + len(missing):
        return None
    return best[1]


def _pairs(
    extra: Collection[str],
    missing: Collection[str],
    names: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
) -> list[tuple[list[str], list[str]]]:
    """Pair each name with the missing one of its shape that has the longest end in common."""
    by_end: dict[str, list[str]] = {}
    for name in missing:
        parts = name.split(".")
        for n in range(len(parts)):
            by_end.setdefault(".".join(parts[n:]), []).append(name)
    pairs = []
    for name in extra:
        parts = name.split(".")
        for n in range(len(parts)):
            fitting = [
                one
                for one in by_end.get(".".join(parts[n:]), ())
                if tuple(expected[one]) == tuple(names[name])
            ]
            if len(fitting) == 1:
                pairs.append((parts, fitting[0].split(".")))
            if fitting:
                break
    return pairs


def _rules(
    pairs: list[tuple[list[str], list[str]]], depth: int, depth_of_empty: int
) -> dict[str, str]:
    """Return new prefixes by old ones, each with so many components of what they have in common."""
    rules: dict[str, str] = {}
    for old, new in pairs:
        backwards = zip(reversed(old), reversed(new), strict=False)
        n_common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], backwards))
        n_tail = max(n_common - (depth_of_empty if n_common == len(old) else depth), 0)
        head, tail = (
            "".join(f"{part}." for part in one[: len(one) - n_tail]) for one in (old, new)
        )
        rules[head if n_tail else head[:-1]] = tail if n_tail else tail[:-1]
    return {old: new for old, new in rules.items() if old != new}
