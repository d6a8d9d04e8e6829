"""The small files that a patch keeps: the new ones, and the old ones for the way back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from ..checkpoint.occupied import PATCH_FILES, PATCH_OLD_FILES
from ..checkpoint.weight_names import parse_name
from ..messages import show

_LACKS: Final = {"added": (True, False), "changed": (False, False), "removed": (False, True)}


ChangeOfFile: TypeAlias = Literal["added", "changed", "removed"]


class SmallFile(BaseModel):
    """A small file that differs; checksums are of its content, None where it is not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    change: ChangeOfFile
    old: str | None
    new: str | None
    n_bytes: int = Field(ge=0, strict=True)
    """The bytes of the new file; none where there is none, and likewise of the old one."""
    n_old_bytes: int = Field(ge=0, strict=True)


@dataclass(frozen=True)
class KeptFile:
    """The content of a small file in a patch."""

    path: str
    """The path beside the weights."""
    is_old: bool
    checksum: str
    n_bytes: int

    @property
    def entry(self) -> str:
        """The name of the entry, in a patch that is one file; no entry of a tensor has it."""
        end = "::file" if "::" in self.path else ""
        return f"{'old-file' if self.is_old else 'file'}:{self.path}{end}"

    @property
    def place(self) -> str:
        """The path in a patch that is a directory."""
        return f"{PATCH_OLD_FILES if self.is_old else PATCH_FILES}/{self.path}"


def kept_files(small: Mapping[str, SmallFile], *, both: bool) -> list[KeptFile]:
    """Return the files that a patch keeps.

    Args:
        small: The small files that differ.
        both: True for the old ones as well, in a patch that can be taken back.
    """
    found = []
    for path, one in small.items():
        if one.new is not None:
            found.append(KeptFile(path, False, one.new, one.n_bytes))
        if both and one.old is not None:
            found.append(KeptFile(path, True, one.old, one.n_old_bytes))
    return found


def check_small(small: Mapping[str, SmallFile]) -> None:
    """Raise ValueError where the record of a small file contradicts itself."""
    for path, file in small.items():
        if not is_small_name(path):
            raise ValueError(f"small file {show(path)}: expected one beside the weights")
        if (file.old is None, file.new is None) != _LACKS[file.change]:
            raise ValueError(f"small file {show(path)}: checksums do not fit to {file.change!r}")


def checksum(data: bytes) -> str:
    """Return the sixteen hexadecimal digits that stand for the content of a small file."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def is_small_name(path: str) -> bool:
    """Return whether a path can be that of a small file: inside, not hidden, and no weights.

    A backslash is a letter like others.
    """
    pure = PurePosixPath(path)
    return (
        path == str(pure)
        and path.isprintable()
        and not pure.is_absolute()
        and bool(pure.parts)
        and not any(part.startswith(".") for part in pure.parts)
        and parse_name(pure.name) is None
    )
