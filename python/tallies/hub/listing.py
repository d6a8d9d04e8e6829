"""The files of a model at one commit, as the hub lists them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

from ..errors import InputError
from ..messages import show
from .attempts import attempt
from .failures import worded
from .library import endpoint, quietly, transport
from .names import HubModel

_SECONDS_TO_CONNECT = 2.0
_SECONDS_TO_ANSWER = 30.0


@dataclass(frozen=True)
class RemoteFile:
    """A file of a model on the hub."""

    name: str
    n_bytes: int
    blob: str
    """The hash by which the cache keeps the file."""


@dataclass(frozen=True)
class Listing:
    """The files of a model at one commit."""

    model: HubModel
    """Its revision is the commit."""
    files: dict[str, RemoteFile]


_known: dict[tuple[str, HubModel], Listing] = {}
"""Listings of commits, by the address of the hub; a commit never changes."""


def list_files(model: HubModel) -> Listing:
    """Ask the hub for the commit and the files of a model: one request.

    Raises:
        InputError: There is no such model or revision, or this user may not read the model.
        StorageError: The hub fails, or the connection breaks off.
        Exception: The hub cannot be reached, as ``failures.is_about_the_network`` tells.
    """
    known = _known.get((endpoint(), model))
    if known is None:
        known = _ask(model)
        _known[endpoint(), known.model] = known
    return known


def _ask(model: HubModel) -> Listing:
    from huggingface_hub import HfApi

    timeout = transport().Timeout(_SECONDS_TO_ANSWER, connect=_SECONDS_TO_CONNECT)
    with quietly():
        info = attempt(
            lambda: HfApi(endpoint=endpoint(), library_name="tallies").model_info(
                model.repo, revision=model.revision, files_metadata=True, timeout=timeout
            )
        )
    with worded(model):
        files = {}
        for one in info.siblings or ():
            _check_name(model, one.rfilename)
            blob = one.lfs.sha256 if one.lfs else one.blob_id
            files[one.rfilename] = RemoteFile(one.rfilename, one.size or 0, blob or "")
        return Listing(HubModel(model.repo, info.sha), files)


def _check_name(model: HubModel, name: str) -> None:
    """Refuse the name of a file that would not lie inside the model's directory."""
    parts = PureWindowsPath(name)
    inside = not parts.anchor and ".." not in parts.parts and "\\" not in name
    if not (name and name.isprintable() and inside and PurePosixPath(name).as_posix() == name):
        raise InputError(f"{model}: lists a file {show(name)}, which lies outside the model")
