"""The parts of a model: the weights of its directory, and those of its sub-directories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """The weights that lie in one directory of a model.

    The tensors of a part in a folder are named ``FOLDER/NAME`` (``2_Dense/linear.weight``); its
    files hold ``NAME``.
    """

    folder: str
    """The directory below the model's own, with slashes; nothing for the model's own."""
    stem: str
    """The name of the files without variant, number and suffix; libraries save by it."""
    variant: str
    """``fp16`` and the like, or nothing."""
    files: tuple[Path, ...]
    metadata: dict[str, str]
    """The joined ``__metadata__`` of the files; where they differ, the first file's stays."""


def folder_of(name: str, parts: Iterable[Part]) -> str:
    """Return the folder of the part that a tensor of this name is in; nothing for the root's."""
    folders = [part.folder for part in parts if part.folder and name.startswith(f"{part.folder}/")]
    return max(folders, key=len, default="")
