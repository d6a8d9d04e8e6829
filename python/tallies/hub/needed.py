"""The files of a model that a use of it needs: its weights in one format, and the small files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.formats import FORMATS, format_of
from .listing import Listing
from .shadow import LEFT_OUT

_FROM_AFAR: Final = FORMATS[0]
"""The format with its header at the beginning of a file."""


def needed_files(listing: Listing, shadow: Path, *, weights: bool = True) -> list[str]:
    """Return the names of the files that the reader of models takes, and of their indexes.

    Args:
        listing: The model.
        shadow: The directory that stands for the model.
        weights: False for the configuration, tokenizer and other small files alone.

    Raises:
        InputError: The files are no model.
    """
    if weights and is_opaque(listing):
        small = [name for name in _seen(listing) if not _is_weight(name)]
        return sorted({*_opaque_weights(listing), *small})
    if not weights:
        donor = Checkpoint.open_small_files(shadow)
        return sorted(path.as_posix() for path in donor.auxiliary_files())
    checkpoint = Checkpoint.open(shadow)
    small = {path.as_posix() for path in checkpoint.auxiliary_files()}
    chosen = {Path(os.path.relpath(path, shadow)).as_posix() for path in checkpoint.files}
    folders = {PurePosixPath(name).parent for name in chosen}
    indexes = {
        name
        for name in _seen(listing)
        if ".index." in name and PurePosixPath(name).parent in folders
    }
    return sorted(small | indexes | chosen)


def is_opaque(listing: Listing) -> bool:
    """Return True if the model's tensors cannot be listed before its files are downloaded."""
    weights = [name for name in _seen(listing) if _is_weight(name)]
    return bool(weights) and all(format_of(Path(name)) is not _FROM_AFAR for name in weights)


def _seen(listing: Listing) -> Iterator[str]:
    return (name for name in listing.files if not LEFT_OUT.search(name))


def _is_weight(name: str) -> bool:
    return any(form.is_of_a_model(PurePosixPath(name).name) for form in FORMATS)


def _opaque_weights(listing: Listing) -> list[str]:
    """Return the weights of a model whose headers cannot be read: those of the usual names."""
    names = [name for name in _seen(listing) if "/" not in name and _is_weight(name)]
    form = format_of(Path(names[0])) if names else FORMATS[-1]
    if any(map(form.is_index, names)):
        stem = form.usual_name.partition(".")[0]
        return [name for name in names if name.startswith(stem) and name != form.usual_name]
    return [name for name in names if form.is_usual(name)] or names
