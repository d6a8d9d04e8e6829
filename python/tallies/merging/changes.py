"""Words the changes between a run that stopped and another that is to go on from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..messages import show

_SHOWN = 3


def facts(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a journal's key that a person can tell apart.

    Args:
        key: The version, the plan with its recipe, and the sizes and times of the inputs.
    """
    plan = key.get("plan", {})
    return {
        "version": key["version"],
        "recipe": dict(_flat(plan.get("recipe", {}), "")),
        "inputs": {path: list(stamp) for path, stamp in key.get("inputs", {}).items()},
    }


def changed(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what changed between two runs, and the ways out.

    Args:
        was: The facts of the run that stopped.
        now: Those of the run that is to go on.
    """
    ways = {
        "recipe": ("the recipe changed", "repeat the earlier recipe to go on"),
        "inputs": ("an input changed", "restore it to go on"),
        "version": ("tallies changed", "use the earlier version to go on"),
    }
    for part, (what, way) in ways.items():
        old, new = was.get(part, {}), now[part]
        if part == "version":
            old, new = {part: was.get(part)}, {part: new}
        found = list(_differences(old, new, part))
        if found:
            more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            return _refused(f"{what}: {', '.join(found[:_SHOWN])}{more}", way)
    return _refused("its plan was another one", "repeat the earlier request to go on")


def _refused(what: str, way: str) -> str:
    return (
        f"--resume: {what} since the run that stopped; {way}, or leave out --resume (resume=True) "
        "to begin anew without its finished files"
    )


def _differences(was: Mapping[str, Any], now: Mapping[str, Any], part: str) -> Iterator[str]:
    # A key of the recipe itself changes the parameters below it too: it comes first.
    for key in sorted(was.keys() | now.keys(), key=lambda name: ("." in name, name)):
        old, new = was.get(key), now.get(key)
        if old == new:
            continue
        if part == "inputs" and old and new:
            size = f"had {old[0]} bytes and has {new[0]}"
            yield f"{key} {size if old[0] != new[0] else 'was written again'}"
        else:
            yield f"{key} was {_said(old)} and is {_said(new)}"


def _said(value: object) -> str:
    return "not there" if value is None else show(value)


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested data by their dotted names."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        for number, one in enumerate(value):
            yield from _flat(one, f"{name}[{number}]")
    else:
        yield name, value
