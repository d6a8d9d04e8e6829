"""Refuse files that stand for others: pointers of Git LFS, and web pages saved in their place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ..errors import InputError

_LFS: Final = b"version https://git-lfs"
_PAGES: Final = (b"<!doctype html", b"<html")

_MAX_POINTER_BYTES: Final = 1024
"""A pointer of Git LFS is shorter."""


def refuse_pointer(path: str | os.PathLike[str], head: bytes) -> None:
    """Raise InputError if a file begins as a pointer of Git LFS or as a web page."""
    if head.startswith(_LFS):
        raise InputError(
            f"{os.fspath(path)}: is a Git LFS pointer, expected the file itself; run git lfs pull "
            "in its directory"
        )
    if head.lstrip().lower().startswith(_PAGES):
        raise InputError(
            f"{os.fspath(path)}: is a web page (HTML), expected the file itself; download it again"
        )


def refuse_pointer_file(path: Path) -> None:
    """Raise InputError for a small file that is a pointer of Git LFS; others are not opened."""
    try:
        if os.stat(path).st_size > _MAX_POINTER_BYTES:
            return
        with open(path, "rb") as file:
            head = file.read(len(_LFS))
    except OSError:
        return  # whoever copies the file says so
    if head == _LFS:
        refuse_pointer(path, head)
