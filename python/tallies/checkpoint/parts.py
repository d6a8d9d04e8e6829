"""The parts of a model: the weights of its directory, and those of its sub-directories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final


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

    @property
    def prefix(self) -> str:
        """The text before the names of the part's tensors and files: ``2_Dense/``, or nothing."""
        return f"{self.folder}/" if self.folder else ""

    @property
    def dotted_variant(self) -> str:
        """The variant as it stands in names: ``.fp16``, or nothing."""
        return f".{self.variant}" if self.variant else ""

    @property
    def index_name(self) -> str:
        """The path of an index of the part's files, were they several, as libraries name it."""
        return f"{self.prefix}{self.stem}.safetensors.index{self.dotted_variant}.json"


ROOT: Final = Part("", "model", "", (), {})
"""The part of a model of which no more is known than its tensors."""


def folder_of(name: str, parts: Iterable[Part]) -> str:
    """Return the folder of the part that a tensor of this name is in; nothing for the root's."""
    folders = [part.folder for part in parts if part.folder and name.startswith(f"{part.folder}/")]
    return max(folders, key=len, default="")
