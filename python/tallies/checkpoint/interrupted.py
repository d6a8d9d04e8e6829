"""Models that a change in place has left neither old nor new."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ..errors import InputError

JOURNAL: Final = ".tallies-apply"
"""The end of the name of a journal's directory, which is there while a model changes."""


def journal_of(path: Path) -> Path:
    """Return the place of the journal of a model: in its directory, or beside its file."""
    return path / JOURNAL if os.path.isdir(path) else path.with_name(f".{path.name}{JOURNAL}")


def refuse_interrupted(path: Path) -> None:
    """Raise InputError for a model of which a part is old and another part may be new."""
    if os.path.isdir(journal_of(path)):
        raise InputError(
            f"{path}: patches are being applied to it in place, or were until a run was killed; "
            f"wait for that run, or restore the old model: tallies apply --to {path} --in-place "
            "--undo"
        )
