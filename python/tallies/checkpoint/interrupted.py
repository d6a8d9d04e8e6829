"""Models that a change in place has left neither old nor new.

The directory of a model that changes has a journal. Each directory below it that holds weights of
the model has a note that leads to it, so that whoever reads a file meets the journal in the file's
own directory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from ..errors import InputError, TalliesError
from ..messages import show
from .json_text import is_object, json_object, object_checksum, read_text

JOURNAL: Final = ".tallies-apply"
"""The name of a journal's directory, which is there while a model changes."""

NEW: Final = f"{JOURNAL}.new"
"""The name of a journal that is not complete: nothing has changed."""

DONE: Final = f"{JOURNAL}.done"
"""The name of a journal whose change has come to its end."""

NOTE: Final = f"{JOURNAL}.of"
"""The name of the note that leads to the directory of the journal: ``..``, ``../..`` and so on."""

RECORD: Final = "journal.json"
"""The name of the file in a journal that says what it covers."""


def homes_of(folder: Path) -> list[Path]:
    """Return the directories whose journals may cover files of a directory, itself first.

    Raises:
        InputError: A note is damaged.
    """
    note = folder / NOTE
    try:
        text = note.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [folder]
    if set(text.split("/")) != {".."}:
        raise InputError(f"{note}: is damaged: expected the way up to a directory")
    return [folder, Path(os.path.normpath(folder / text))]


def refuse_interrupted(path: Path, files: Iterable[Path]) -> None:
    """Raise InputError for a model of which a part is old and another part may be new.

    Args:
        path: The model, for messages.
        files: Its weight files.
    """
    by_folder: dict[Path, list[Path]] = {}
    for file in files:
        real = Path(os.path.realpath(file))
        by_folder.setdefault(real.parent, []).append(real)
    for folder, its in by_folder.items():
        for home in homes_of(folder):
            if os.path.isdir(home / JOURNAL):
                if _covers(home, its):
                    raise InputError(
                        f"{path}: patches are being applied to it in place, or were until a run "
                        "was killed; wait for that run, or restore the old model: tallies apply "
                        f"--to {path} --in-place --undo"
                    )
            elif home != folder and not _is_over(home) and os.path.exists(folder / NOTE):
                raise InputError(
                    f"{folder}: was moved away from a model while patches were being applied to "
                    f"that in place, whose journal was in {home}; move it back, and restore the "
                    "old model: tallies apply --to MODEL --in-place --undo"
                )


def _is_over(home: Path) -> bool:
    """Tell if the change that a journal belongs to has not begun, or has come to its end."""
    return os.path.isdir(home / NEW) or os.path.isdir(home / DONE)


def read_record(path: Path) -> dict[str, Any]:
    """Read what a journal covers, and compare it with its checksum.

    Raises:
        InputError: The file is damaged.
        StorageError: It cannot be read.
    """
    data = json_object(read_text(path), str(path))
    expected, found = data.pop("checksum", None), object_checksum(data)
    if found != expected:
        raise InputError(f"{path}: is damaged: its checksum is {found}, expected {show(expected)}")
    return data


def _covers(home: Path, files: Iterable[Path]) -> bool:
    """Tell if a journal covers any of these files; one that cannot be read covers all."""
    record = home / JOURNAL / RECORD
    with contextlib.suppress(TalliesError):
        covered = read_record(record).get("files")
        if is_object(covered):
            return any(os.path.relpath(file, home) in covered for file in files)
    return True
