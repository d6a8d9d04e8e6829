"""Say why a path is no model: the causes that people meet, and the way out of each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NoReturn

from ..errors import InputError
from ..messages import either, some
from .beside import is_weights
from .weight_names import SUFFIXES

STORE_MANIFEST: Final = "store.json"
"""The file by which a directory is a store of tasks."""

PATCH_MANIFEST: Final = "patch.json"
"""The file by which a directory is a patch."""

_FILE: Final = f"file named {either(SUFFIXES)}"
_WEIGHT_FILE: Final = f"file of weights named {either(SUFFIXES)}"

_CONVERT: Final = (
    "convert the model to safetensors first (with transformers: from_pretrained, save_pretrained)"
)


def refuse_absent(path: str) -> NoReturn:
    """Raise InputError for a path that is neither file nor directory."""
    if not path or os.path.exists(path):
        raise InputError(f"{path!r}: expected a directory, or a {_FILE}")
    if "+" in path:
        raise InputError(
            f"{path}: no such file or directory{_empty_piece(path)}; a model with adapters is "
            "written MODEL+ADAPTER, and each of them is a path with something there or a model of "
            "a hub"
        )
    raise InputError(
        f"{path}: no such file or directory; expected a directory, or a {_FILE} (download models "
        "of a hub first)"
    )


def _empty_piece(path: str) -> str:
    """Return, in words, the side of a plus on which neither a model nor an adapter stands."""
    first, *between, last = path.split("+")
    if os.path.basename(first) == "":
        return ", and nothing stands before its first +"
    if last == "":
        return ", and nothing stands after its last +"
    return ", and nothing stands between two of its +" if "" in between else ""


def refuse_other_file(path: Path) -> None:
    """Raise InputError for a file of no format that is read."""
    if path.name.endswith(".json") and is_weights(path.name):
        raise InputError(f"{path}: is an index; give the directory that holds it")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: expected a directory, or a {_FILE}; {_CONVERT}")


def refuse_store(path: Path) -> None:
    """Raise InputError for a store of tasks."""
    if os.path.isfile(path / STORE_MANIFEST):
        _refuse_store(path, path)


def refuse_patch(path: Path) -> None:
    """Raise InputError for a patch that is a directory."""
    if os.path.isfile(path / PATCH_MANIFEST):
        raise InputError(
            f"{path}: is a patch, expected a model; apply it first (tallies apply {path} --to OLD "
            "--out NEW)"
        )


def refuse_piece_of_store(path: Path) -> None:
    """Raise InputError for a file of a store, or the directory of its tasks."""
    for root in (path.parent, path.parent.parent):
        pieces = (root / "shared.safetensors", root / "tasks", root / "tasks" / path.name)
        if path in pieces and os.path.isfile(root / STORE_MANIFEST):
            _refuse_store(path, root)


def _refuse_store(path: Path, root: Path) -> NoReturn:
    what = "is a store" if path == root else "is a piece of a store"
    raise InputError(
        f"{path}: {what}, expected a model; unpack a task of it first (tallies unpack {root} TASK "
        "OUT)"
    )


def refuse_no_weights(root: Path, names: Iterable[str]) -> NoReturn:
    """Raise InputError for a directory without weights, by the names in it."""
    refuse_hub_cache(root)
    others = [name for name in names if is_weights(name)]
    if others:
        raise InputError(f"{root}: holds no {_WEIGHT_FILE}, only {some(others)}; {_CONVERT}")
    below = sorted(path.parent.name for path in root.glob("*/*") if path.suffix in SUFFIXES)
    if below:
        raise InputError(
            f"{root}: holds no {_WEIGHT_FILE} itself; give one of its sub-directories "
            f"({some(list(dict.fromkeys(below)))})"
        )
    raise InputError(f"{root}: holds no {_WEIGHT_FILE}; give the directory of a model")


def refuse_hub_cache(root: Path) -> None:
    """Raise InputError for a directory of a hub's cache above the snapshot that is the model."""
    snapshots = [root] if root.name == "snapshots" else [root / "snapshots"]
    if not snapshots[0].is_dir():
        snapshots = sorted(root.glob("models--*/snapshots"))
    found = sorted(str(path) for top in snapshots for path in top.glob("*/") if path.is_dir())
    if not found:
        return
    main = _main_revision(snapshots[0].parent)
    which = str(snapshots[0] / main) if main else found[0]
    if which not in found:
        which = found[0]
    raise InputError(
        f"{root}: is a directory of a hub's cache, expected the snapshot in it that is the model; "
        f"give {which}" + (f" (or another of {len(found)} snapshots)" if len(found) > 1 else "")
    )


def _main_revision(repository: Path) -> str:
    """Return the commit that a cache has for the branch ``main``, if any."""
    try:
        return (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
