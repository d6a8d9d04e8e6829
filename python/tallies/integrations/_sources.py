"""The sources that a seam relies on, at home and where the host looks them up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from ._facts import Seam, Source, digest_of, function_of, strangers_in
from ._serving import find


def pieces_of(seam: Seam, own: Callable[[Any], Any]) -> Iterator[tuple[str, str | None, str]]:
    """Yield each piece of a host that a seam relies on, at home and where others look it up.

    Args:
        seam: The seam.
        own: Gives the host's function for one of ours.

    Returns:
        The names of the pieces, the digests that are found, and those that are known.
    """
    sources = (Source(seam.module, seam.name, seam.digest), *seam.copied)
    users: dict[int, dict[str, Any]] = {}
    for source in sources:
        place = find(source.module, source.name)
        value = None if place is None else own(place.value)
        yield f"{source.module}.{source.name}".rstrip("."), digest_of(value), source.digest
        if isinstance(value, ModuleType):
            for name in strangers_in(value):
                yield f"{source.module}.{name}", "of another", source.digest
        elif (function := function_of(value)) is not None:
            users[id(function.__globals__)] = function.__globals__
    for user in users.values():
        for source in sources:
            if source.name in user:
                found = digest_of(own(user[source.name]))
                yield f"{user['__name__']}.{source.name}", found, source.digest
