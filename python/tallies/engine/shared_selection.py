"""Searches the thresholds that several merges ask for in one selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._core import Plan, Threshold

Ask = Mapping[str, Any]
"""The arguments of a selection."""


def select_together(
    plan: Plan,
    asked: Mapping[int, Ask],
    n_experts: Callable[[int], int],
    progress: Callable[[int], object] | None,
) -> dict[int, list[list[Threshold]]]:
    """Return the thresholds that each of several merges asks for.

    Ranks of magnitudes in the same tensors are searched in one selection, equal ones once. Derived
    numbers, which depend on more than the rank, are ranked once for all that ask for the same.

    Args:
        plan: The native plan that has the tensors.
        asked: For each merge the arguments of its selection.
        n_experts: Returns the number of experts of a job.
        progress: Is called with the bytes moved since the last call.
    """
    groups: dict[Any, list[int]] = {}
    for number, options in asked.items():
        groups.setdefault(_key(options), []).append(number)
    found: dict[int, list[list[Threshold]]] = {}
    for numbers in groups.values():
        found |= _select(plan, {n: asked[n] for n in numbers}, n_experts, progress)
    return found


def _key(options: Ask) -> Any:
    """Return the part of a selection that must be equal for two to be taken together."""
    others = {key: one for key, one in options.items() if key not in ("units", "limits")}
    derived = options.get("measure", 0) != 0
    units = tuple(
        (tuple(unit.slices), unit.share, tuple(unit.ranks) if derived else ())
        for unit in options["units"]
    )
    # Draws of random gates are native objects, which equal none but themselves.
    return units, repr(sorted(others.items()))


def _select(
    plan: Plan,
    asked: Mapping[int, Ask],
    n_experts: Callable[[int], int],
    progress: Callable[[int], object] | None,
) -> dict[int, list[list[Threshold]]]:
    """Return the thresholds of selections over the same units."""
    one = next(iter(asked.values()))
    if one.get("measure", 0) != 0:
        found = plan.select(**one, progress=progress)
        return dict.fromkeys(asked, found)
    units, places = [], []
    for number, unit in enumerate(one["units"]):
        n = n_experts(unit.slices[0][0]) if unit.slices else len(unit.ranks)
        rows = {of: options["units"][number].ranks for of, options in asked.items()}
        ranks, at = joined_ranks(list(rows.values()), n)
        units.append(unit.with_ranks(ranks=ranks))
        places.append(dict(zip(rows, at, strict=True)))
    found = plan.select(**{**one, "units": units}, progress=progress)
    return {
        number: [
            [thresholds[place] for place in at[number]]
            for thresholds, at in zip(found, places, strict=True)
        ]
        for number in asked
    }


def joined_ranks(rows: Sequence[Sequence[int]], n: int) -> tuple[list[int], list[list[int]]]:
    """Return the ranks that several selections ask for, and the place of each of theirs.

    Args:
        rows: The ranks of each selection, which go through ``n`` experts in turn.
        n: The number of experts.

    >>> joined_ranks([[5, 7], [5, 9], [6, 0]], 2)
    ([5, 7, 6, 9, 0, 0], [[0, 1], [0, 3], [2, 5]])
    """
    if n == 0:
        return [], [[] for _ in rows]
    of: list[dict[int, None]] = [{} for _ in range(n)]
    for row in rows:
        for i, rank in enumerate(row):
            of[i % n].setdefault(rank)
    # The search of no rank costs nothing, and stands where other experts have more ranks.
    depth = max(map(len, of))
    lists = [[*own, *[0] * (depth - len(own))] for own in of]
    ranks = [own[level] for level in range(depth) for own in lists]
    places = [[lists[i % n].index(rank) * n + i % n for i, rank in enumerate(row)] for row in rows]
    return ranks, places
