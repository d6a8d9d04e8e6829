"""Makes one name of the spellings that adapters of one model have for its tensors.

A text model is trained alone, inside a model of several modes, or without its head: the same module
is ``model.layers.0.q_proj``, ``model.language_model.layers.0.q_proj`` or ``layers.0.q_proj``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ..checkpoint.adapters.names import BACKBONES, TEXT_MODELS
from ..checkpoint.tied import is_head

_HOSTS: Final = sorted((*TEXT_MODELS, *BACKBONES), key=len, reverse=True)
"""Prefixes of a model inside another, each before those that it begins with."""

_PREFIX: Final = re.compile(rf"(?:_orig_mod\.|module\.)*(?:{'|'.join(map(re.escape, _HOSTS))})?")


class Spelling:
    """The names that earlier adapters of a merge give to what later ones spell otherwise.

    >>> spelling = Spelling()
    >>> spelling.renamed(["model.layers.0.q_proj.weight"])
    {}
    >>> spelling.renamed(["layers.1.q_proj.weight"])
    {'layers.1.q_proj.weight': 'model.layers.1.q_proj.weight'}
    """

    def __init__(self) -> None:
        self._known: dict[str, str | None] = {}

    def renamed(self, names: Iterable[str]) -> dict[str, str]:
        """Return the new names of an adapter's tensors by the old ones, where these differ.

        Args:
            names: The tensors that the adapter changes, as its model calls them.
        """
        split = [(name, *_split(name)) for name in names]
        own: dict[str, str | None] = {}
        for _, prefix, part in split:
            # An adapter with a part behind several prefixes tells its modules apart by them.
            own[part] = prefix if own.get(part, prefix) == prefix else None
        moves: dict[str, set[str]] = {}
        for part, old in own.items():
            new = self._known.get(part)
            if old is not None and new is not None:
                moves.setdefault(old, set()).add(new)
        found = {}
        for name, prefix, part in split:
            new = self._known[part] if part in self._known else _alone(name, moves, prefix)
            if None not in (own[part], new) and new != prefix:
                found[name] = f"{new}{name[len(prefix) :]}"
        for name, _, part in split:
            if part not in self._known:
                several = own[part] is None
                self._known[part] = None if several else _split(found.get(name, name))[0]
        return found


def _split(name: str) -> tuple[str, str]:
    """Return the prefix of hosts, and the component behind it."""
    found = _PREFIX.match(name)
    prefix = found[0] if found else ""
    return prefix, name[len(prefix) :].partition(".")[0]


def _alone(name: str, moves: dict[str, set[str]], prefix: str) -> str:
    """Return the prefix of a part that no earlier adapter has: it goes with its neighbours.

    A head stands beside the model whose neighbour it is, and stays where it is.
    """
    new = set() if is_head(name) else moves.get(prefix, set())
    return next(iter(new)) if len(new) == 1 else prefix
