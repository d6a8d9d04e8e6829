"""The shared cache of downloads: which commit and which files of a model it has."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from .library import cache_directory
from .listing import Listing, RemoteFile
from .names import HubModel


def cached(model: HubModel) -> HubModel | None:
    """Return the model at the commit that the cache has of its revision, or None without one."""
    root = cache_directory() / model.folder
    commit = model.revision
    if not model.is_pinned:
        try:
            commit = (root / "refs" / (model.revision or "main")).read_text().strip()
        except (OSError, ValueError):
            return None
    found = replace(model, revision=commit)
    return found if found.is_pinned and snapshot(found).is_dir() else None


def snapshot(model: HubModel) -> Path:
    """Return the directory of a commit in the cache, whether or not it is there."""
    assert model.revision is not None
    return cache_directory() / model.folder / "snapshots" / model.revision


def note_commit(asked: HubModel, found: HubModel) -> None:
    """Write down the commit of a branch or tag, so that the cache answers without a network."""
    if asked.is_pinned or found.revision is None:
        return
    ref = cache_directory() / found.folder / "refs" / (asked.revision or "main")
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(found.revision)


def path_in_cache(listing: Listing, file: RemoteFile) -> Path | None:
    """Return the path of a file that was downloaded, for this commit or for another one."""
    at_commit = snapshot(listing.model) / file.name
    blob = cache_directory() / listing.model.folder / "blobs" / file.blob
    places = [at_commit, blob] if file.blob else [at_commit]
    return next((path for path in places if os.path.isfile(path)), None)
