"""The small files beside a restored task: its own, or those of another model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...checkpoint.files import copy_file, stamps
from ...checkpoint.json_text import json_object, read_text
from ...checkpoint.opening import open_donor
from ...checkpoint.quantised import quantisation, without_quantisation
from ...errors import StorageError
from ..small_files import check_small_files
from .task import Restoring


@dataclass(frozen=True)
class SmallFilesOut:
    """The files to write beside the tensors of a restored task."""

    places: dict[str, Path]
    """The file to copy, by its path in the directory that is written."""
    kept: list[str]
    """Those that the store has."""
    donors: Sequence[Path] = ()
    """Models that files are copied from, beside base and store."""

    @classmethod
    def of(cls, one: Restoring, files_from: str | os.PathLike[str] | None) -> SmallFilesOut:
        """Find the task's files and check them, or list those of another model.

        Raises:
            InputError: A file of the task is missing or damaged, or the model is none.
            StorageError: A file cannot be read.
        """
        files = one.manifest.small_files.get(one.task)
        if files_from is None and files is not None:
            places = check_small_files(one.path, one.base.path, one.task, files)
            return cls(places, [name for name, file in files.items() if not file.in_base])
        donor = one.base if files_from is None else open_donor(os.fspath(files_from))
        places = {path.as_posix(): donor.path / path for path in donor.auxiliary_files()}
        return cls(places, [], [donor.path])

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in stamps(list(self.places.values())).values())

    def write(self, directory: Path) -> None:
        """Copy the files. The configuration loses a declaration of quantised weights.

        Raises:
            StorageError: A file cannot be read or written.
        """
        for name, path in self.places.items():
            config = json_object(read_text(path), str(path)) if name == "config.json" else {}
            if not quantisation(config):
                copy_file(path, directory / name)
                continue
            text = json.dumps(without_quantisation(config), indent=2, ensure_ascii=False) + "\n"
            try:
                (directory / name).write_text(text, encoding="utf-8")
            except OSError as error:
                raise StorageError(
                    f"{directory / name}: cannot be written: {error.strerror}"
                ) from None
