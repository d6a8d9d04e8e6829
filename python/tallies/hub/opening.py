"""Open models of the hub: headers from afar, or whole from the cache of downloads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..checkpoint.checkpoint import Checkpoint
from ..errors import InputError, StorageError
from ..sizes import format_size
from .cache import cached, note_commit, snapshot
from .download import Download, download
from .failures import OFFLINE, is_about_the_network, unreachable, worded
from .library import host, is_offline, library
from .listing import Listing, list_files
from .names import HubModel
from .needed import needed_files, opaque_folders
from .shadow import shadow, without_shadow

_asked: dict[HubModel, set[HubModel]] = {}
"""By model at a commit, the names by which the commit was asked for."""


def pin(model: HubModel) -> HubModel:
    """Return a model at the commit that its revision means: the hub's, or else the cache's.

    Raises:
        InputError: There is no such model or revision, or neither hub nor cache can say.
        StorageError: The hub fails.
    """
    library(str(model))
    if model.is_pinned:
        return model
    listing = _listing(model)
    if listing is None:
        return _cached(model)
    _asked.setdefault(listing.model, set()).add(model)
    return listing.model


def headers(model: HubModel, variant: str = "", *, weights: bool = True) -> Path:
    """Return a directory in which the headers and small files of a model can be read.

    It is the model's directory in the cache if that has all files, and otherwise one that stands
    for the model.

    Args:
        model: The model.
        variant: The variant of the weights, such as ``fp16``.
        weights: False if the small files alone are read.

    Raises:
        InputError: There is no such model, this user may not read it, or its tensors cannot be
            listed from afar.
        StorageError: The hub fails.
    """
    library(str(model))
    listing = _listing(model)
    if listing is None:
        path = snapshot(_cached(model))
        if weights:
            _refuse_partial(model, path, variant)
        return path
    at, wanted = shadow(listing), _wanted(listing, variant, weights=weights)
    if wanted.is_whole and weights:
        return snapshot(listing.model)
    if weights and opaque_folders(listing, at):
        raise InputError(
            f"{listing.model}: its weights are no safetensors, so their tensors cannot be listed "
            f"before the download of {format_size(wanted.n_bytes_missing)}; download them first: "
            f"hf download {model.repo}"
        )
    return at


def files(
    models: Iterable[HubModel], variant: str = "", *, weights: bool = True, bars: bool = False
) -> list[Path]:
    """Download what is missing of some models, and return the directories to read them from.

    Args:
        models: The models.
        variant: The variant of the weights, such as ``fp16``.
        weights: False for the small files alone.
        bars: Show a bar for each file on standard error.

    Raises:
        InputError: There is no such model, this user may not read it, or there is no room.
        StorageError: The hub or the disk fails.
    """
    asked = list(models)
    wanted = [missing(model, variant, weights=weights) for model in asked]
    fetch([one for one in wanted if one is not None], bars=bars)
    return [headers(model, variant, weights=weights) for model in asked]


def fetch(wanted: Sequence[Download], *, bars: bool) -> None:
    """Download files, as ``download`` does, and write down the branches and tags of their commits.

    Raises:
        InputError: This user may not read a file, or there is no room.
        StorageError: The hub or the disk fails.
    """
    download(wanted, bars=bars)
    for one in wanted:
        for asked in _asked.get(one.listing.model, ()):
            with contextlib.suppress(OSError):
                note_commit(asked, one.listing.model)


def missing(model: HubModel, variant: str = "", *, weights: bool = True) -> Download | None:
    """Return the files to download before a model can be read; None if the cache has all.

    Args:
        model: The model.
        variant: The variant of the weights, such as ``fp16``.
        weights: False for its small files alone.
    """
    library(str(model))
    listing = _listing(model)
    wanted = _wanted(listing, variant, weights=weights) if listing else None
    return None if wanted is None or wanted.is_whole else wanted


def is_opaque(model: HubModel) -> bool:
    """Return True if the tensors of a model cannot be listed before it is downloaded."""
    listing = _listing(model)
    return listing is not None and bool(opaque_folders(listing, shadow(listing)))


@contextlib.contextmanager
def named() -> Iterator[None]:
    """Name models, not the directories that stand for them, in the errors of the block."""
    try:
        yield
    except (InputError, StorageError) as error:
        raise type(error)(without_shadow(str(error))) from None


def _wanted(listing: Listing, variant: str, *, weights: bool) -> Download:
    with named():
        return Download(listing, needed_files(listing, shadow(listing), variant, weights=weights))


def _listing(model: HubModel) -> Listing | None:
    """Return the files of a model as the hub lists them; None if it cannot be asked."""
    if is_offline():
        return None
    with worded(model):
        try:
            return list_files(model)
        except Exception as error:
            if not is_about_the_network(error):
                raise
    return None


def _refuse_partial(model: HubModel, path: Path, variant: str) -> None:
    """Refuse a directory of the cache that lacks weights, when the hub cannot be asked for them."""
    try:
        Checkpoint.open(path, variant=variant)
    except InputError as error:
        raise InputError(
            f"{error}; the cache may have a part of {model} only, and {_why()}: download the rest "
            f"where there is a network (hf download {model.repo})"
        ) from None


def _cached(model: HubModel) -> HubModel:
    """Return a model at the commit that the cache has."""
    found = cached(model)
    if found is not None:
        return found
    raise unreachable(model, _why())


def _why() -> str:
    """Say why the hub was not asked."""
    if is_offline():
        return OFFLINE
    return f"{host()} cannot be reached"
