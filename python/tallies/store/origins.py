"""The places of a store's base and experts, as ``store.json`` names them.

A path is written relative to the store, so that a store that moves with its models finds them, and
one that is published names no directory of the machine it was made on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..hub.names import SCHEME, of_snapshot
from ..messages import unknown
from ..recipe.places import Places
from .manifest import Manifest


def root_of(store: str | os.PathLike[str]) -> Path:
    """Return the directory of a store; ``~`` at the start is a home directory."""
    return Path(os.path.expanduser(store))


def recorded(text: str | os.PathLike[str], store: Path) -> str:
    """Return the text by which ``store.json`` names a model, whatever the current directory."""
    places = Places.of()

    def record(piece: str) -> str:
        model = of_snapshot(os.path.abspath(piece)) or places.hub_model(piece)
        if model is not None:
            return f"{SCHEME}{model.text.removeprefix(SCHEME)}"
        return places.relative_to(store, piece)

    return places.by_piece(os.fspath(text), record)


def resolved(origin: str, store: Path) -> str:
    """Return the path, or the model of the hub, that ``store.json`` means, with its adapters."""
    places = Places(os.path.realpath(store))

    def resolve(piece: str) -> str:
        return piece if piece.startswith(SCHEME) else os.path.normpath(places.path(piece))

    return places.by_piece(origin, resolve)


def recorded_in_words(manifest: Manifest, store: Path) -> str:
    """Return the base that ``store.json`` names, as it is written there, for a message."""
    path = manifest.recorded_base
    place = resolved(path, store)
    return path if path == place else f"{path} as seen from the store, which is {place}"


def _is_there(text: str) -> bool:
    pieces = Places.of().pieces(text)
    return all(piece.startswith(SCHEME) or os.path.exists(piece) for piece in pieces)


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
    for name in tasks:
        if name not in manifest.tasks:
            raise InputError(f"{store}: task {unknown(name, manifest.tasks)}")
    if not manifest.has_base:
        refuse_base(store, base)
    manifest.base_path = _told(base, manifest.base_path, store)
    for name, task in manifest.tasks.items():
        manifest.tasks[name] = replace(task, source=_told(tasks.get(name), task.source, store))


def _told(text: str | os.PathLike[str] | None, origin: str, store: Path) -> str:
    """Return how ``store.json`` names a model that was named anew, or is named already."""
    if text is not None:
        return recorded(Places.of().pinned(os.fspath(text)), store)
    return recorded(origin, store) if os.path.isabs(origin) else origin


def base_place(store: Path, manifest: Manifest, given: str | os.PathLike[str] | None = None) -> str:
    """Return the text of the base, as it was given; InputError if nothing is there.

    Where the tasks are checkpoints by themselves, the text is empty.
    """
    if not manifest.has_base:
        refuse_base(store, given)
        return ""
    if given is not None:
        return os.fspath(given)
    place = resolved(manifest.base_path, store)
    if not _is_there(place):
        raise InputError(
            f"{store}: its base is recorded as {recorded_in_words(manifest, store)}, where nothing "
            "is; name the base (base=, --base)"
        )
    return place


def refuse_base(store: Path, given: str | os.PathLike[str] | None) -> None:
    """Raise InputError for a base that is given for a store without one."""
    if given is not None:
        raise InputError(
            f"{store}: its tasks are checkpoints by themselves, found the base "
            f"{os.fspath(given)}; leave it out"
        )


def task_places(
    store: Path, manifest: Manifest, given: Mapping[str, str | os.PathLike[str]]
) -> dict[str, str]:
    """Return the texts of all experts, as they were given; InputError if one is not there."""
    places = {
        name: os.fspath(given.get(name, resolved(task.source, store)))
        for name, task in manifest.tasks.items()
    }
    for name, place in places.items():
        if name not in given and not _is_there(place):
            raise InputError(
                f"{store}: {manifest.codec} has one shared vector of all tasks, so they must be "
                f"packed again, but the expert of task {name!r} is not at {place} any more; say "
                f"where it is (--task {name}=DIR; in Python, tasks=)"
            )
    return places
