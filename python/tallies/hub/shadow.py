"""A model of the hub as a directory that takes no room: true names, sizes and headers, no tensors.

Files that the cache has are links to it, small files are fetched, and each weight file is a sparse
file of its full size that begins with its header. All that reads headers can read the directory.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final

from ..checkpoint.json_text import MAX_HEADER_BYTES
from .attempts import in_threads
from .cache import path_in_cache
from .listing import Listing, RemoteFile
from .names import of_snapshot
from .ranges import read_start

_FIRST_BYTES: Final = 16 << 10
"""Bytes of a weight file that are read at once: most headers of shards are shorter."""

_LARGEST_SMALL_FILE: Final = 256 << 10
_LARGEST_INDEX: Final = 16 << 20
_N_THREADS: Final = 16

_TEXT: Final = re.compile(r"\.(?:json|jinja|txt|model|py|md)\Z|(?:\A|/)LICENSE")
LEFT_OUT: Final = re.compile(r"(?:\A|/)(?:\.|checkpoint-\d|onnx/|openvino/|runs/)")
"""Directories beside the model, whose weights belong to no part of it."""


def shadow(listing: Listing) -> Path:
    """Return the directory that stands for a model; files that are in the cache are links to it.

    Raises:
        InputError: This user may not read the files.
        StorageError: The hub fails, or the directory cannot be written.
    """
    revision = listing.model.revision
    assert revision is not None
    root = _root() / listing.model.folder / "snapshots" / revision
    files = [file for file in listing.files.values() if not LEFT_OUT.search(file.name)]
    in_threads(lambda file: _put(listing, file, root / file.name), files, _N_THREADS)
    return root


def is_shadow(path: str | os.PathLike[str]) -> bool:
    """Return True for a path in a directory that stands for a model."""
    return os.fspath(path).startswith(os.fspath(_root()))


def is_placeholder(path: str | os.PathLike[str]) -> bool:
    """Return True for a file with the right size whose bytes, or most of them, are not there."""
    return is_shadow(path) and not os.path.islink(path) and os.fspath(path) in _hollow


def without_shadow(message: str) -> str:
    """Return a message that names models in the place of the directories that stand for them."""
    prefix = f"{_root()}/"
    parts = message.split(prefix)
    for i, part in enumerate(parts[1:], 1):
        if model := of_snapshot(part):
            length = len(f"{model.folder}/snapshots/{model.revision}")
            parts[i] = f"{model}{part[length:]}"
    return "".join(parts)


@cache
def _root() -> Path:
    """Make the directory of all that this process reads from afar; it goes with the process."""
    root = Path(os.path.realpath(tempfile.mkdtemp(prefix="tallies-hub-")))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


_hollow: set[str] = set()


def _put(listing: Listing, file: RemoteFile, path: Path) -> None:
    """Make one file of the directory: a link, a copy, or a header and nothing behind it."""
    source = path_in_cache(listing, file)
    if path.exists() and (path.is_symlink() or source is None):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if source is not None:
        _hollow.discard(os.fspath(path))
        path.symlink_to(source)
        return
    pieces = _pieces(listing, file)
    path.write_bytes(pieces)
    if len(pieces) < file.n_bytes:
        _hollow.add(os.fspath(path))
        os.truncate(path, file.n_bytes)


def _pieces(listing: Listing, file: RemoteFile) -> bytes:
    """Return the bytes of a file that are wanted before it is downloaded."""
    name = PurePosixPath(file.name).name
    if name.endswith(".safetensors"):
        return _header(listing, file)
    limit = _LARGEST_INDEX if ".index." in name else _LARGEST_SMALL_FILE
    wanted = _TEXT.search(file.name) and file.n_bytes <= limit
    return read_start(listing, file, 0, file.n_bytes) if wanted else b""


def _header(listing: Listing, file: RemoteFile) -> bytes:
    found = read_start(listing, file, 0, _FIRST_BYTES)
    end = 8 + int.from_bytes(found[:8], "little")
    # A length beyond all headers is for the reader of headers to refuse.
    if len(found) < end <= MAX_HEADER_BYTES:
        found += read_start(listing, file, len(found), end)
    return found
