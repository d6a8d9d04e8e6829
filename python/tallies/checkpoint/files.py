"""Files that are copied beside a result, and signs that an input file changed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import InputError, StorageError
from .configuration import Written, true_configurations


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


_MOST_HASHED: Final = 1 << 26


def digest_of_start(path: str | os.PathLike[str]) -> str:
    """Return a digest of the first 64 MiB of a file: all of most adapters.

    It notices a change that keeps size and time, as that of a number in a configuration.

    Raises:
        StorageError: The file cannot be read.
    """
    found = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            for _ in range(0, _MOST_HASHED, 1 << 20):
                found.update(file.read(1 << 20))
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from None
    return found.hexdigest()


def refuse_changed(before: Mapping[str, tuple[int, int]]) -> None:
    """Raise StorageError if a file changed since its ``stamps`` were taken."""
    for path, stamp in stamps([Path(path) for path in before]).items():
        if stamp != before[path]:
            raise StorageError(
                f"{path}: changed while it was being read (from {before[path][0]} to {stamp[0]} "
                "bytes, or its time); try again when nothing writes to it"
            )


@dataclass(frozen=True)
class AuxiliaryFiles:
    """The small files that are copied beside a result: configuration, tokenizer ..."""

    places: Mapping[Path, Path]
    """The file to copy, by its relative path beside the result."""
    texts: Mapping[Path, bytes]
    """The text of each file that is not copied as it is, some of which are copies of none."""

    @classmethod
    def of(cls, places: Mapping[Path, Path], parts: Mapping[str, Written]) -> AuxiliaryFiles:
        """Find out which of the files must say something else of a result.

        Args:
            places: The files by their relative paths.
            parts: The tensors of each part of the result, by the folder of the part.

        Raises:
            InputError: A config.json states what no change can make true of the tensors.
            StorageError: A file cannot be read.
        """
        for place in places.values():
            try:
                open(place, "rb").close()
            except OSError as error:
                raise StorageError(f"{error.filename}: cannot be read: {error.strerror}") from None
        return cls(places, true_configurations(places, parts))

    @property
    def paths(self) -> list[Path]:
        """The relative paths of the files."""
        return sorted({*self.places, *self.texts})

    @property
    def n_bytes(self) -> int:
        """Bytes of all files; StorageError if one is gone."""
        sizes = stamps(list(self.places.values())).values()
        return sum(size for size, _ in sizes) + sum(map(len, self.texts.values()))

    def copy(self, directory: Path) -> None:
        """Write the files beside a result; StorageError when that fails."""
        for path in self.paths:
            if (text := self.texts.get(path)) is None:
                copy_file(self.places[path], directory / path)
                continue
            target = directory / path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(text)
            except OSError as error:
                raise StorageError(f"{target}: cannot be written: {error.strerror}") from None


def copy_file(source: Path, target: Path) -> None:
    """Copy a small file, with the directories it lies in; StorageError when that fails."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise StorageError(
            f"{source}: cannot be copied to {target}: {error.strerror or error}"
        ) from None
