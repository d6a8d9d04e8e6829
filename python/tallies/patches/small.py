"""The small files beside the weights: those that differ, and those beside a result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.files import copy_file
from ..errors import StorageError
from .chains import Link
from .manifest import SmallFile, is_small_name
from .models import Model, OnDisk
from .opened import checksum

Differing = dict[str, tuple[SmallFile, Path]]
"""By path beside the weights, what became of a file, and the place of the new one if any."""


def differing(old: Model, new: Model) -> Differing:
    """Return the small files that are not the same beside both models.

    There are none unless both are directories: a file, or a dict, has nothing beside it.

    Raises:
        StorageError: A file cannot be read.
    """
    sides = []
    for side in (old, new):
        if not isinstance(side, OnDisk) or not os.path.isdir(side.checkpoint.path):
            return {}
        places = side.small_files()
        sides.append({name: path for name, path in places.items() if is_small_name(name)})
    before, after = sides
    found: Differing = {}
    for name in sorted(before.keys() | after.keys()):
        was, data = (_read(one.get(name)) for one in sides)
        if was == data:
            continue
        record = SmallFile(
            change="added" if was is None else "removed" if data is None else "changed",
            old=None if was is None else checksum(was),
            new=None if data is None else checksum(data),
            n_bytes=0 if data is None else len(data),
        )
        found[name] = (record, after.get(name, Path()))
    return found


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
    removed: list[str]
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
        out = cls({}, {}, [], {}, [])
        if alone or not os.path.isdir(target.path):
            return out
        out.places = {path.as_posix(): file for path, file in target.small_files().items()}
        for link in links:
            for name, file in link.patch.manifest.small_files.items():
                if link.backwards:
                    out._take_back(link, name, file)
                else:
                    out._take(link, name, file)
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

    def _take(self, link: Link, name: str, file: SmallFile) -> None:
        found = self.texts.get(name)
        if found is None:
            found = _read(self.places.get(name))
        if file.old is not None and (found is None or checksum(found) not in (file.old, file.new)):
            self.warnings.append(
                f"{name}: was not the file that {link.label} starts from; the patch's is taken"
            )
        self.places.pop(name, None)
        self.texts.pop(name, None)
        if file.new is None:
            self.removed.append(name)
        else:
            self.texts[name] = link.patch.small_file(name, file)
        self.done[name] = file.change

    def _take_back(self, link: Link, name: str, file: SmallFile) -> None:
        if file.change == "added":
            self.places.pop(name, None)
            self.removed.append(name)
            self.done[name] = "removed"
        else:
            self.warnings.append(
                f"{name}: stays as it is: {link.label} does not have the file of the old model"
            )


def write_file(path: Path, text: bytes) -> None:
    """Write a small file, with the directories it lies in; StorageError when that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from None
