"""The small files beside a restored task: its own, or those of another model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...checkpoint import cards
from ...checkpoint.configuration import written_parts
from ...checkpoint.files import AuxiliaryFiles
from ...checkpoint.layout import Entry
from ...checkpoint.opening import open_donor
from ...recipe.places import local_path
from ..small_files import check_small_files
from .task import Restoring


@dataclass(frozen=True)
class SmallFilesOut:
    """The files to write beside the tensors of a restored task."""

    files: AuxiliaryFiles
    kept: list[str]
    """Those that the store has."""
    donor: Path | None = None
    """The model whose files they are; None for the task's own."""
    text: str | None = None
    """The same model as it was asked for."""

    @classmethod
    def none(cls) -> SmallFilesOut:
        """Return no files, as they lie beside a result that is one file."""
        return cls(AuxiliaryFiles({}, {}), [])

    @classmethod
    def of(
        cls, one: Restoring, entries: Sequence[Entry], files_from: str | os.PathLike[str] | None
    ) -> SmallFilesOut:
        """Find the task's files and check them, or list those of another model.

        Args:
            one: The task.
            entries: The tensors of the result, of which config.json speaks.
            files_from: The other model.

        Raises:
            InputError: A file of the task is missing or damaged, or the model is none.
            StorageError: A file cannot be read.
        """
        tensors = one.manifest.tensors
        tied = [name for name, tensor in tensors.items() if tensor.tied_to is not None]
        parts = {}
        if not one.family.codec.of_stored:
            parts = written_parts(one.base, entries, tied, donated=files_from is not None)
        files = one.manifest.small_files.get(one.task)
        if files_from is None and files is not None:
            found = check_small_files(one.path, one.base.path, one.task, files)
            places = {Path(name): path for name, path in found.items()}
            kept = [name for name, file in files.items() if not file.in_base]
            return cls(AuxiliaryFiles.of(places, parts), kept)
        text = os.fspath(one.base.path if files_from is None else files_from)
        donor = one.base if files_from is None else open_donor(local_path(text, weights=False))
        names = [path for path in donor.auxiliary_files() if not cards.of_one_model(path)]
        places = {path: donor.path / path for path in names}
        return cls(AuxiliaryFiles.of(places, parts), [], donor.path, text)
