"""The record of a journal: which files it covers, in ``journal.json``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath

from ..checkpoint.interrupted import read_record
from ..checkpoint.json_text import is_object, object_checksum
from ..errors import InputError
from .kept import is_small_name


@dataclass(frozen=True)
class Record:
    """The content of ``journal.json``: what the journal covers. Paths are below its model's."""

    n_links: int
    files: dict[str, str]
    """The weight files, and what stands before the names of the tensors of each: ``unet/``."""
    small_files: dict[str, str | None]
    """The small files that change, and the checksum of the old one; None where there is none."""
    made: list[str]
    """The directories that are made for small files."""

    @property
    def folders(self) -> list[str]:
        """The directories of files below the model's own, which have notes."""
        return sorted({os.path.dirname(file) for file in self.files} - {""})

    def to_json(self) -> str:
        """Return the text of the file."""
        data = asdict(self)
        return json.dumps({**data, "checksum": object_checksum(data)}, indent=1)

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read the file; InputError if it is damaged, StorageError if it cannot be read."""
        data = read_record(path)
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
            and all(one is None or isinstance(one, str) for one in small.values())
        ):
            raise InputError(f"{path}: is damaged")
        return cls(n, files, small, made)


def is_below(path: str) -> bool:
    """Return whether a path, with slashes, leads to a file below where it starts."""
    pure = PurePosixPath(path)
    return bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts
