"""Files that are copied beside a result, and signs that an input file changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, StorageError
from .checkpoint import Checkpoint
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
    """The small files of a model that are copied beside a result: configuration, tokenizer ..."""

    donor: Checkpoint
    sizes: Mapping[Path, int]
    """Bytes of each file, by its relative path."""
    texts: Mapping[Path, bytes]
    """The text of each file that is not copied as it is."""

    @classmethod
    def of(cls, donor: Checkpoint, parts: Mapping[str, Written]) -> AuxiliaryFiles:
        """Find the files to copy, and what a config.json must say of the result.

        Args:
            donor: The model whose files are copied.
            parts: The tensors of each part of the result, by the folder of the part.

        Raises:
            InputError: A config.json states what no change can make true of the tensors.
            StorageError: A file cannot be read.
        """
        sizes = {}
        for path in donor.auxiliary_files():
            try:
                with open(donor.path / path, "rb") as file:
                    sizes[path] = os.fstat(file.fileno()).st_size
            except OSError as error:
                raise StorageError(f"{error.filename}: cannot be read: {error.strerror}") from None
        return cls(donor, sizes, true_configurations(donor, parts))

    @property
    def paths(self) -> list[Path]:
        """The relative paths of the files."""
        return list(self.sizes)

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values()) + sum(map(len, self.texts.values()))

    def copy(self, directory: Path) -> None:
        """Write the files beside a result; StorageError when that fails."""
        for path in self.sizes:
            if (text := self.texts.get(path)) is None:
                copy_file(self.donor.path / path, directory / path)
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
        raise StorageError(f"{source}: cannot be copied: {error.strerror or error}") from None
