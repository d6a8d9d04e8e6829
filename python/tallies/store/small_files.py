"""The small files of a task: configuration, tokenizer, chat template and all else but weights.

A store keeps those that differ from the base's, below ``files/TASK/``, and notes which ones are the
base's, so that a restored task has exactly the files that the task had.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from ..checkpoint import cards
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.files import copy_file, refuse_undecodable
from ..checkpoint.json_text import refuse_unreadable
from ..checkpoint.paths import is_possible
from ..errors import InputError
from ..messages import show

FOLDER: Final = "files"

_DESCRIPTIONS: Final = ("config.json", "model_index.json", "modules.json")
"""Files that say how to load the weights. A task without the base's is no model of its own."""

_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class SmallFile:
    """A small file of a task."""

    checksum: str
    n_bytes: int
    in_base: bool
    """True if the base's file of this name is the same; else the store has the file."""


SmallFiles = dict[str, SmallFile]
"""The small files of a task by their path in its directory, with ``/`` between the parts."""


def place(task: str, name: str) -> str:
    """Return the path in the store of a task's own file."""
    return f"{FOLDER}/{task}/{name}"


def keep_small_files(
    base: Checkpoint | None, tasks: Mapping[str, Checkpoint], directory: Path
) -> dict[str, SmallFiles]:
    """Copy the small files of all tasks that differ from the base's into a store.

    Args:
        base: The base, or None.
        tasks: The experts by the names of their tasks.
        directory: The directory of the store.

    Returns:
        The small files by task.

    Raises:
        StorageError: A file cannot be read or written.
    """
    of_base = (
        {
            path.as_posix(): SmallFile(*_checksum(base.path / path), True)
            for path in base.auxiliary_files()
        }
        if base is not None
        else {}
    )
    return {task: _keep_task(of_base, expert, directory, task) for task, expert in tasks.items()}


def _keep_task(of_base: SmallFiles, expert: Checkpoint, directory: Path, task: str) -> SmallFiles:
    places = expert.small_files()
    names = [path.as_posix() for path in places]
    lacks_description = any(name in of_base and name not in names for name in _DESCRIPTIONS)
    # An expert of bare weights loads with the base's files alone. The base's card is not its own.
    kept = {n: file for n, file in of_base.items() if not cards.of_one_model(Path(n))}
    kept = kept if lacks_description else {}
    for name, path in zip(names, places.values(), strict=True):
        refuse_undecodable(path)
        found = SmallFile(*_checksum(path), False)
        same = of_base.get(name)
        if same is not None and same.checksum == found.checksum:
            kept[name] = same
        else:
            kept[name] = found
            copy_file(path, directory / place(task, name))
    return dict(sorted(kept.items()))


def _checksum(path: Path) -> tuple[str, int]:
    """Return sixteen hexadecimal digits over the content of a file, and its bytes."""
    found, n_bytes = hashlib.blake2b(digest_size=8), 0
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
                n_bytes += len(chunk)
    except OSError as error:
        refuse_unreadable(error, path)
    return found.hexdigest(), n_bytes


def own_bytes(files: Mapping[str, SmallFile]) -> int:
    """Return the bytes of the files that the store has."""
    return sum(file.n_bytes for file in files.values() if not file.in_base)


def own_files(task: str, files: Mapping[str, SmallFile]) -> list[str]:
    """Return the paths in the store of a task's own files."""
    return [place(task, name) for name, file in files.items() if not file.in_base]


def check_small_files(
    store: Path, base: Path | None, task: str, files: Mapping[str, SmallFile]
) -> dict[str, Path]:
    """Compare the small files of a task with their checksums.

    Args:
        store: The directory of the store.
        base: The directory of the base; None leaves out the files that are the base's.
        task: The name of the task.
        files: The task's files.

    Returns:
        The place of each file by its path in the task's directory.

    Raises:
        InputError: A file is missing, or is another one than when the task was packed.
        StorageError: A file cannot be read.
    """
    places = {}
    for name, file in files.items():
        if file.in_base and base is None:
            continue
        path = base / name if file.in_base and base else store / place(task, name)
        _check(path, task, file)
        places[name] = path
    return places


def _check(path: Path, task: str, file: SmallFile) -> None:
    way_out = (
        "restore it, or name a model whose small files to take instead (files_from=, --files-from)"
    )
    if not os.path.isfile(path):
        where = "the base, whose file it is" if file.in_base else "the store"
        raise InputError(
            f"{path}: task {show(task)} has this file, but it is missing from {where}; {way_out}"
        )
    found, _ = _checksum(path)
    if found != file.checksum:
        what = "is not the base's file of the time of packing" if file.in_base else "is damaged"
        raise InputError(
            f"{path}: small file of task {show(task)} {what}: its checksum is {found}, expected "
            f"{file.checksum}; {way_out}"
        )


def refuse_outside(name: str) -> None:
    """Raise ValueError unless a small file's name leads to a file below a directory."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or not is_possible(name):
        raise ValueError(f"names {show(name)}, which lies outside the store")
