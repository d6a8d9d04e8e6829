"""The codecs by name."""

from __future__ import annotations

from functools import cache

from ...errors import InputError
from ...messages import unknown
from ..discovery import classes_in
from ._codec import Codec


@cache
def _codecs() -> dict[str, type[Codec]]:
    codecs = classes_in(__name__.rpartition(".")[0], Codec)
    return {one.name: one for one in sorted(codecs, key=lambda one: (one.position, one.name))}


def names() -> list[str]:
    """Return the names of all codecs in the order in which lists show them."""
    return list(_codecs())


def get(name: str) -> type[Codec]:
    """Return the codec of this name.

    Raises:
        InputError: No codec has this name; the message suggests one that is similar.
    """
    known = _codecs()
    if name not in known:
        raise InputError(f"codec {unknown(name, known)}")
    return known[name]
