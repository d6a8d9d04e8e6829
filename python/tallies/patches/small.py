"""The small files beside the weights: those that differ, and those beside a result."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.files import copy_file
from ..errors import StorageError
from ..messages import show
from .chains import Link
from .kept import ChangeOfFile, KeptFile, SmallFile, checksum, is_small_name
from .models import Model, OnDisk


@dataclass(frozen=True)
class Differing:
    """The small files that are not the same beside two models."""

    records: dict[str, SmallFile]
    """The record of each, by path beside the weights."""
    sides: tuple[Mapping[str, Path], Mapping[str, Path]] = ({}, {})
    """The places of the old and of the new files."""
    left_out: tuple[str, ...] = ()
    """Files that differ, and whose names no patch can have."""

    @classmethod
    def between(cls, old: Model, new: Model) -> Differing:
        """Compare the small files of two models.

        There are none unless both are directories: a file, or a dict, has nothing beside it.

        Raises:
            StorageError: A file cannot be read.
        """
        sides = []
        for side in (old, new):
            if not isinstance(side, OnDisk) or not os.path.isdir(side.checkpoint.path):
                return cls({})
            sides.append(side.small_files())
        before, after = sides
        records, left_out = {}, []
        for name in sorted(before.keys() | after.keys()):
            was, data = (_read(one.get(name)) for one in sides)
            if was == data:
                continue
            if is_small_name(name):
                records[name] = _record(was, data)
            else:
                left_out.append(name)
        return cls(records, (before, after), tuple(left_out))

    def warnings(self) -> list[str]:
        """Return a warning for each file that is left out."""
        return [
            f"file {show(name)} differs, and the patch is without it: its name cannot be printed; "
            "rename it, or copy it beside the new model"
            for name in self.left_out
        ]

    def place(self, one: KeptFile) -> Path:
        """Return the place of a file that the patch keeps."""
        return self.sides[0 if one.is_old else 1][one.path]


def _record(was: bytes | None, data: bytes | None) -> SmallFile:
    old = None if was is None else checksum(was)
    new = None if data is None else checksum(data)
    return SmallFile(
        change=_word(old, new),
        old=old,
        new=new,
        n_bytes=len(data or b""),
        n_old_bytes=len(was or b""),
    )


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from None


@dataclass
class SmallOut:
    """The small files of a result: those of the old model, but for what the patches change."""

    places: dict[str, Path]
    """The files to copy, by their paths."""
    texts: dict[str, bytes]
    """The files that a patch has."""
    done: dict[str, str]
    """The change of each file that is not as before."""
    warnings: list[str]

    @classmethod
    def of(cls, links: Sequence[Link], target: Checkpoint, *, alone: bool) -> SmallOut:
        """Find the small files of a result.

        Args:
            links: The chain.
            target: The model that it starts from.
            alone: True for a result that is one file, beside which there is nothing.

        Raises:
            InputError: A small file of a patch is damaged.
            StorageError: A file cannot be read.
        """
        out = cls({}, {}, {}, [])
        if alone or not os.path.isdir(target.path):
            return out
        out.places = {path.as_posix(): file for path, file in target.small_files().items()}
        for link in links:
            kept = {
                one.path: one
                for one in link.patch.manifest.kept_files
                if one.is_old == link.backwards
            }
            for name, file in link.patch.manifest.small_files.items():
                out._take(link, name, file, kept.get(name))
        return out

    @property
    def paths(self) -> list[Path]:
        """The relative paths of the files."""
        return sorted(map(Path, {*self.places, *self.texts}))

    def write(self, directory: Path) -> None:
        """Write the files beside a result; StorageError when that fails."""
        for name, place in self.places.items():
            copy_file(place, directory / name)
        for name, text in self.texts.items():
            write_file(directory / name, text)

    def _take(self, link: Link, name: str, file: SmallFile, kept: KeptFile | None) -> None:
        before, after = (file.new, file.old) if link.backwards else (file.old, file.new)
        found = self.texts.get(name)
        if found is None:
            found = _read(self.places.get(name))
        if (None if found is None else checksum(found)) not in (before, after):
            self.warnings.append(
                f"{name}: was not the file that {link.label} starts from; the patch's is taken"
            )
        self.places.pop(name, None)
        self.texts.pop(name, None)
        if kept is not None:
            self.texts[name] = link.patch.small_file(kept)
        self.done[name] = _word(before, after)


def _word(before: str | None, after: str | None) -> ChangeOfFile:
    return "added" if before is None else "removed" if after is None else "changed"


def write_file(path: Path, text: bytes) -> None:
    """Write a small file, with the directories it lies in; StorageError when that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from None
