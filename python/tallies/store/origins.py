"""The places of a store's base and experts, as ``store.json`` names them.

A path is written relative to the store, so that a store that moves with its models finds them, and
one that is published names no directory of the machine it was made on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath

from ..errors import InputError
from ..hub.names import SCHEME, of_snapshot
from ..messages import unknown
from ..recipe.places import Places, local_path
from .manifest import Manifest


def recorded(path: str | os.PathLike[str], store: Path) -> str:
    """Return a path relative to a store, with ``/`` between the parts.

    A path with links on the way has several spellings: the one nearest to the store counts.
    """
    given = os.fspath(path)
    model = of_snapshot(os.path.abspath(given)) or Places.of().hub_model(given)
    if model is not None:
        return f"{SCHEME}{model.text.removeprefix(SCHEME)}"
    real = os.path.realpath(given)
    parent, name = os.path.split(os.path.abspath(given))
    spellings = [os.path.join(parent, name), os.path.join(os.path.realpath(parent), name), real]
    home = os.path.realpath(store)
    ways = [_way(one, home) for one in spellings if _is_same(one, real)]
    return min(ways or [_way(real, home)], key=lambda way: way.count("../"))


def _way(path: str, home: str) -> str:
    try:
        return PurePath(os.path.relpath(path, home)).as_posix()
    except ValueError:  # on another drive
        return PurePath(path).as_posix()


def _is_same(one: str, other: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(one, other)
    return False


def resolved(origin: str, store: Path) -> str:
    """Return the path that ``store.json`` means, or the text of a model of the hub."""
    if origin.startswith(SCHEME):
        return origin
    return os.path.normpath(os.path.join(os.path.realpath(store), origin))


def relocate(
    store: Path,
    manifest: Manifest,
    base: str | os.PathLike[str] | None,
    tasks: Mapping[str, str | os.PathLike[str]],
) -> None:
    """Note in a manifest where base and experts are, and write absolute paths as relative ones.

    Args:
        store: The directory of the store.
        manifest: The manifest, which changes.
        base: The place of the base, if it is another one than the manifest says.
        tasks: Places of experts by the names of their tasks.

    Raises:
        InputError: The store has no such task.
    """
    origin = resolved(manifest.base_path, store) if base is None else base
    manifest.base_path = recorded(origin, store)
    for name in tasks:
        if name not in manifest.tasks:
            raise InputError(f"{store}: task {unknown(name, manifest.tasks)}")
    for name, task in manifest.tasks.items():
        source = recorded(tasks.get(name, resolved(task.source, store)), store)
        manifest.tasks[name] = replace(task, source=source)


def base_place(store: Path, manifest: Manifest, given: str | os.PathLike[str] | None = None) -> str:
    """Return the path of the base, downloaded if need be; InputError if nothing is there."""
    place = resolved(manifest.base_path, store)
    if given is not None or place.startswith(SCHEME):
        return local_path(place if given is None else given)
    if not os.path.exists(place):
        raise InputError(
            f"{store}: its base was packed from {place}, which is not there; name the base "
            "(base=, --base)"
        )
    return place


def task_places(
    store: Path, manifest: Manifest, given: Mapping[str, str | os.PathLike[str]]
) -> dict[str, str]:
    """Return the paths of all experts, as they were given; InputError if one is not there."""
    places = {
        name: os.fspath(given.get(name, resolved(task.source, store)))
        for name, task in manifest.tasks.items()
    }
    for name, place in places.items():
        if name not in given and not place.startswith(SCHEME) and not os.path.exists(place):
            raise InputError(
                f"{store}: {manifest.codec} has one shared vector of all tasks, so they must be "
                f"packed again, but the expert of task {name!r} is not at {place} any more; say "
                f"where it is (--task {name}=DIR; in Python, tasks=)"
            )
    return places
