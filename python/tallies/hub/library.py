"""The library of the hub, imported when a text names a model there, and its settings."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlsplit

from ..errors import InputError

_OFFLINE: Final[ContextVar[bool]] = ContextVar("offline", default=False)


_CACHE: Final[ContextVar[Path | None]] = ContextVar("cache", default=None)


@contextlib.contextmanager
def cached_in(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Let the block take and keep models of the hub in another cache."""
    token = _CACHE.set(Path(directory).expanduser())
    try:
        yield
    finally:
        _CACHE.reset(token)


@contextlib.contextmanager
def offline(wanted: bool = True) -> Iterator[None]:
    """Let nothing in the block ask the hub; models come from the cache."""
    token = _OFFLINE.set(wanted or _OFFLINE.get())
    try:
        yield
    finally:
        _OFFLINE.reset(token)


def library(text: str) -> ModuleType:
    """Return the module ``huggingface_hub``; InputError without it, for the model ``text``."""
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(
            f"{text}: no such file or directory; if it is a model of the hub, install what can "
            "download it: pip install huggingface_hub"
        ) from None
    module: ModuleType = huggingface_hub
    return module


def is_offline() -> bool:
    """Return True if nothing may be asked of the hub."""
    from huggingface_hub import constants

    # The function reads the environment anew in some versions, the value is older than both.
    switch = getattr(constants, "is_offline_mode", lambda: constants.HF_HUB_OFFLINE)
    return _OFFLINE.get() or bool(switch())


def endpoint() -> str:
    """Return the address of the hub, without a slash at its end."""
    from huggingface_hub import constants

    address: str = constants.ENDPOINT
    return address.rstrip("/")


def host() -> str:
    """Return the name of the hub's host."""
    return urlsplit(endpoint()).netloc.rpartition("@")[2]


def cache_directory() -> Path:
    """Return the directory of all models that were downloaded, by any program."""
    if (chosen := _CACHE.get()) is not None:
        return chosen
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def utilities() -> Any:
    """Return the module of the library's session, headers and checks of answers."""
    return importlib.import_module("huggingface_hub.utils")


def transport() -> Any:
    """Return the module of the library's HTTP client; its name differs by version."""
    client = type(utilities().get_session())
    return importlib.import_module(client.__module__.partition(".")[0])


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep the library from writing to the terminal; failures are ours to word."""
    import logging

    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def nearby(text: str) -> list[str]:
    """Return paths from the current directory that a misspelt text may mean."""
    folder, name = os.path.split(text)
    found = []
    for place in (folder, ""):
        with contextlib.suppress(OSError):
            found += [os.path.join(place, one) for one in sorted(os.listdir(place or "."))]
    return found if name else []
