"""Files that a run in place covers: which may be changed, and which a journal names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.locks import flush
from ..checkpoint.parts import Part
from ..checkpoint.safetensors import read_header
from ..checkpoint.tensors import TensorInfo
from ..errors import InputError
from ..messages import show
from .chains import Link
from .journal import Journal
from .small import SmallOut
from .works import Work


def refuse_linked(model: Path, home: Path, path: Path) -> None:
    """Raise InputError for a file that is elsewhere, by a link of its own or on its way."""
    root = model if os.path.isdir(model) else model.parent
    real = os.path.realpath(path)
    if real != str(home / os.path.relpath(path, root)):
        raise InputError(
            f"{path}: is a link, or in a directory that is one, to {real}, and others would "
            "change with it; name an output (--out), or copy it"
        )


def check_small(model: Path, home: Path, small: SmallOut) -> None:
    """Raise InputError for a small file that cannot be moved, away or to its place."""
    for name in small.done:
        place = model / name
        refuse_linked(model, home, place)
        folder = place.parent
        while not os.path.lexists(folder):
            folder = folder.parent
        if not os.path.isdir(folder) or (os.path.exists(place) and not place.is_file()):
            odd = place if os.path.isdir(folder) else folder
            raise InputError(f"{odd}: stands where a patch has {name}; move it, or --out")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"{place}: cannot be written; name an output (--out)")


def covered(journal: Journal) -> Checkpoint:
    """Open the files that a journal covers, and no others that may lie beside them."""
    record = journal.read()
    tensors: dict[str, TensorInfo] = {}
    files = []
    for name, prefix in record.files.items():
        file = journal.home / name
        if os.path.realpath(file) != str(file):
            raise InputError(f"{file}: is a link, and was none when its change was interrupted")
        files.append(file)
        for one in read_header(file)[0]:
            tensors[prefix + one.name] = replace(one, name=prefix + one.name)
    return Checkpoint(journal.home, tensors, (Part("", "", "", tuple(files), {}),))


def flush_all(files: Sequence[Path], journal: Journal) -> None:
    """Flush weight files, and the directories of all that a journal covers."""
    small = [journal.home / name for name in journal.read().small_files]
    folders = {file.parent for file in (*files, *small)}
    for path in (*files, *sorted(folders)):
        if os.path.exists(path):
            flush(path)


def anew(work: Work) -> Work:
    """Return the same work with nothing read yet."""
    return replace(work, old_lanes=[0] * 8, new_lanes=[0] * 8)


def refuse_structure(links: Sequence[Link]) -> None:
    """Raise InputError if links add, remove or replace a tensor."""
    for link in links:
        for one in link.changes.values():
            if one.change not in ("none", "changed"):
                raise InputError(
                    f"{link.label}: tensor {show(one.name)} is {one.change}, and in place only "
                    "elements of tensors change; name an output (--out)"
                )
