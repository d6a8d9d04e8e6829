"""Download files of models into the shared cache, with a bar for each."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..sizes import format_size
from .attempts import in_threads
from .cache import path_in_cache, snapshot
from .failures import worded
from .library import cache_directory, endpoint, quietly
from .listing import Listing

_N_THREADS = 4
_ROOM = 64 << 20
"""Bytes that stay free beside the downloads."""


@dataclass(frozen=True)
class Download:
    """The files of one model that a use of it needs."""

    listing: Listing
    names: Sequence[str]

    @property
    def is_whole(self) -> bool:
        """True if the cache has all files at this commit."""
        at = snapshot(self.listing.model)
        return all(os.path.isfile(at / name) for name in self.names)

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.listing.files[name].n_bytes for name in self.names)

    @property
    def n_bytes_missing(self) -> int:
        """Bytes of the files that the cache lacks."""
        files = (self.listing.files[name] for name in self.names)
        return sum(file.n_bytes for file in files if path_in_cache(self.listing, file) is None)

    def to_json_dict(self) -> dict[str, Any]:
        """Return the download as plain data."""
        return {
            "model": self.listing.model.text,
            "files": len(self.names),
            "n_bytes": self.n_bytes,
            "n_bytes_missing": self.n_bytes_missing,
        }

    def __str__(self) -> str:
        held = self.n_bytes - self.n_bytes_missing
        return f"{format_size(self.n_bytes_missing)} of {self.listing.model}" + (
            f", {format_size(held)} are in the cache" if held else ""
        )


def download(wanted: Sequence[Download], *, bars: bool) -> None:
    """Download the files that the cache lacks.

    Files that are whole stay whatever happens to the others, and a connection that breaks off is
    taken up where it broke.

    Args:
        wanted: The files of every model.
        bars: Show a bar for each file on standard error.

    Raises:
        InputError: The disk has too little room, or this user may not read the files.
        StorageError: The hub or the disk fails.
    """
    _check_room(sum(one.n_bytes_missing for one in wanted))
    files = [(one.listing, one.listing.files[name]) for one in wanted for name in one.names]
    with quietly(), _pieces_removed(one.listing for one in wanted):
        # Small ones first: an error with a file's name or the user's rights shows at once.
        in_threads(
            lambda pair: _fetch(pair[0], pair[1].name, bars),
            sorted(files, key=lambda pair: pair[1].n_bytes),
            _N_THREADS,
        )


@contextlib.contextmanager
def _pieces_removed(listings: Iterable[Listing]) -> Iterator[None]:
    """Remove the pieces of files that an error or an interrupt leaves in the cache.

    The library names each piece anew and takes none up again.
    """
    blobs = [cache_directory() / listing.model.folder / "blobs" for listing in listings]

    def pieces() -> set[Path]:
        return {path for folder in blobs for path in folder.glob("*.*.incomplete")}

    before = pieces()
    try:
        yield
    except BaseException:
        for path in pieces() - before:
            path.unlink(missing_ok=True)
        raise


def _fetch(listing: Listing, name: str, bars: bool) -> None:
    from huggingface_hub import hf_hub_download

    model = listing.model
    with worded(model, name):
        hf_hub_download(
            model.repo,
            name,
            revision=model.revision,
            cache_dir=cache_directory(),
            endpoint=endpoint(),
            library_name="tallies",
            tqdm_class=_bar_class(f"{model.repo}/{name}", bars),
        )


def _bar_class(title: str, shown: bool) -> Any:
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        """A bar that is there or not as the run was asked."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # a word of the library's own bars
            super().__init__(*args, **{**kwargs, "desc": title, "disable": not shown})

    return Bar


def _check_room(n_bytes: int) -> None:
    place = cache_directory()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if n_bytes and free < n_bytes + _ROOM:
        raise InputError(
            f"{cache_directory()}: the models need {format_size(n_bytes)} in this cache, and the "
            f"disk has {format_size(free)} free; make room, or set HF_HOME to another disk"
        )
