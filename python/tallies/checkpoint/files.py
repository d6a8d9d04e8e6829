"""Files that are copied beside a result, and signs that an input file changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import InputError, StorageError
from .checkpoint import Checkpoint
from .quantised import quantisation, without_quantisation


def refuse_undecodable(path: str | os.PathLike[str]) -> None:
    """Raise InputError for a path that is not text: no report or recipe could name it."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{os.fspath(path)!r}: the path is not UTF-8; rename it") from None


def stamps(paths: Sequence[os.PathLike[str]]) -> dict[str, tuple[int, int]]:
    """Return size and time of last change of each file, to notice files that change meanwhile."""
    found = {}
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}") from None
        found[os.fspath(path)] = (status.st_size, status.st_mtime_ns)
    return found


def refuse_changed(before: Mapping[str, tuple[int, int]]) -> None:
    """Raise StorageError if a file changed since its ``stamps`` were taken."""
    for path, stamp in stamps([Path(path) for path in before]).items():
        if stamp != before[path]:
            raise StorageError(
                f"{path}: changed while it was being read (from {before[path][0]} to {stamp[0]} "
                "bytes, or its time); try again when nothing writes to it"
            )


def auxiliary_sizes(donor: Checkpoint) -> dict[Path, int]:
    """Return the bytes of each file to copy beside tensors; StorageError if one is unreadable."""
    sizes = {}
    for path in donor.auxiliary_files():
        try:
            with open(donor.path / path, "rb") as file:
                sizes[path] = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise StorageError(f"{error.filename}: cannot be read: {error.strerror}") from None
    return sizes


def copy_auxiliary(donor: Checkpoint, path: Path, directory: Path) -> None:
    """Copy one of a model's auxiliary files, by its relative path, beside a result.

    A config.json that declares quantised weights loses the declaration: no result is quantised.

    Raises:
        StorageError: If the file cannot be read or written.
    """
    config = donor.config() if path == Path("config.json") else {}
    if not quantisation(config):
        copy_file(donor.path / path, directory / path)
        return
    text = json.dumps(without_quantisation(config), indent=2, ensure_ascii=False) + "\n"
    try:
        (directory / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{directory / path}: cannot be written: {error.strerror}") from None


def copy_file(source: Path, target: Path) -> None:
    """Copy a small file, with the directories it lies in; StorageError when that fails."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise StorageError(f"{source}: cannot be copied: {error.strerror or error}") from None
