"""A case is a small folder as bytes, so that one mutator serves every format."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

Files = dict[str, bytes]
"""Contents by the path below the folder."""


def pack(files: Mapping[str, bytes]) -> bytes:
    """Lengths and contents of names and files, one after the other."""
    parts = []
    for name, content in files.items():
        parts += [struct.pack("<II", len(name), len(content)), name.encode(), content]
    return b"".join(parts)


def unpack(data: bytes, like: Mapping[str, bytes]) -> Files | None:
    """The files of a case, if it has those of a seed and no others."""
    files: Files = {}
    at = 0
    while at + 8 <= len(data):
        n_name, n_content = struct.unpack_from("<II", data, at)
        name = data[at + 8 : at + 8 + n_name].decode("latin-1")
        at += 8 + n_name + n_content
        if name not in like or at > len(data):
            return None
        files[name] = data[at - n_content : at]
    return files or None


def read(folder: Path) -> Files:
    """The files of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put the files into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
