"""The files of a model that a use of it needs: its weights in one format, and the small files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.folders import declared_folders
from ..checkpoint.formats import FORMATS
from .listing import Listing
from .shadow import LEFT_OUT

_FROM_AFAR, _OPAQUE = FORMATS
"""The format with the header at the beginning of a file, and the one that has it at the end."""

_INDEX: Final = ".index."

_ADAPTER_CONFIG: Final = "adapter_config.json"
"""A file that is no small file of the model beside it, and without which no adapter is read."""


def needed_files(
    listing: Listing, shadow: Path, variant: str = "", *, weights: bool = True
) -> list[str]:
    """Return the names of the files that the reader of models takes, and of their indexes.

    Args:
        listing: The model.
        shadow: The directory that stands for the model.
        variant: The variant of the weights, such as ``fp16``.
        weights: False for the configuration, tokenizer and other small files alone.

    Raises:
        InputError: The files are no model.
    """
    if not weights:
        return sorted(_small(shadow))
    if opaque_folders(listing, shadow):
        return sorted(_by_name(listing, shadow))
    checkpoint = Checkpoint.open(shadow, variant=variant)
    small = {path.as_posix() for path in checkpoint.auxiliary_files()}
    chosen = {Path(os.path.relpath(path, shadow)).as_posix() for path in checkpoint.files}
    folders = {PurePosixPath(name).parent for name in chosen}
    indexes = {
        name for name in _seen(listing) if _INDEX in name and PurePosixPath(name).parent in folders
    }
    return sorted(small | indexes | chosen)


def opaque_folders(listing: Listing, shadow: Path) -> list[str]:
    """Return the folders of a model whose tensors cannot be listed before a download."""
    folders = ["", *declared_folders(shadow)]
    return [
        folder
        for folder in folders
        if _names(listing, folder, _OPAQUE.has_weights)
        and not _names(listing, folder, _FROM_AFAR.has_weights)
    ]


def _by_name(listing: Listing, shadow: Path) -> Iterator[str]:
    """Yield the files of a model with opaque folders: all that may belong to it."""
    folders = ["", *declared_folders(shadow)]
    opaque = opaque_folders(listing, shadow)
    for folder in folders:
        if folder in opaque:
            names = _names(listing, folder, _OPAQUE.has_weights)
            usual = [name for name in names if PurePosixPath(name).name == _OPAQUE.usual_name]
            yield from usual or names
            yield from _names(listing, folder, _is_index)
        else:
            yield from _names(listing, folder, _FROM_AFAR.has_weights)
    yield from _small(shadow)


def _is_index(name: str) -> bool:
    return _INDEX in name


def _small(shadow: Path) -> list[str]:
    found = {path.as_posix() for path in Checkpoint.open_small_files(shadow).auxiliary_files()}
    return [*found, *([_ADAPTER_CONFIG] if (shadow / _ADAPTER_CONFIG).is_file() else [])]


def _names(listing: Listing, folder: str, has_weights: Callable[[str], bool]) -> list[str]:
    """Return the weights of a format that lie in a folder itself."""
    paths = map(PurePosixPath, _seen(listing))
    return [
        path.as_posix()
        for path in paths
        if path.parent == PurePosixPath(folder) and has_weights(path.name)
    ]


def _seen(listing: Listing) -> Iterator[str]:
    return (name for name in listing.files if not LEFT_OUT.search(name))
