"""The record of a journal: which files it covers, in ``journal.json``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath

from ..checkpoint.json_text import is_object, json_object, read_text
from ..errors import InputError
from .kept import is_small_name


@dataclass(frozen=True)
class Record:
    """The content of ``journal.json``: what the journal covers. Paths are below its model's."""

    n_links: int
    files: dict[str, str]
    """The weight files, and what stands before the names of the tensors of each: ``unet/``."""
    small_files: dict[str, bool]
    """The small files that change, and whether there is an old one."""
    made: list[str]
    """The directories that are made for small files."""

    @property
    def folders(self) -> list[str]:
        """The directories of files below the model's own, which have notes."""
        return sorted({os.path.dirname(file) for file in self.files} - {""})

    def to_json(self) -> str:
        """Return the text of the file."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read the file; InputError if it is damaged, StorageError if it cannot be read."""
        data = json_object(read_text(path), str(path))
        n, files, small, made = (data.get(one.name) for one in fields(cls))
        if not (
            isinstance(n, int)
            and 0 < n < 10_000
            and is_object(files)
            and is_object(small)
            and isinstance(made, list)
            and all(isinstance(one, str) for one in (*files.values(), *made))
            and all(map(is_below, (*files, *made)))
            and all(map(is_small_name, small))
        ):
            raise InputError(f"{path}: is damaged")
        return cls(n, files, {name: bool(one) for name, one in small.items()}, made)


def is_below(path: str) -> bool:
    """Return whether a path, with slashes, leads to a file below where it starts."""
    pure = PurePosixPath(path)
    return bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts
