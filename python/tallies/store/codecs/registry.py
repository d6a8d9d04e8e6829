"""The codecs by name: every file of this folder without a leading underscore states one."""

from __future__ import annotations

from functools import cache
from typing import Final

from ...discovery import classes_in, in_reading_order
from ...errors import InputError
from ...messages import unknown
from ._codec import Codec

_READING_ORDER: Final = (
    *("tall", "emr", "magnitude", "sparse", "lossless", "lora", "bitdelta", "tsv_c", "twin"),
)
"""The order of lists. Codecs that are not named here follow, by name."""


@cache
def _codecs() -> dict[str, type[Codec]]:
    found = {one.name: one for one in classes_in(__name__.rpartition(".")[0], Codec)}
    return {name: found[name] for name in in_reading_order(found, _READING_ORDER)}


def names() -> list[str]:
    """Return the names of all codecs in the order in which lists show them."""
    return list(_codecs())


def of_models() -> list[str]:
    """Return the names of the codecs that take any fine-tuned model, not adapters alone."""
    return [one.name for one in _codecs().values() if not one.of_adapters]


def get(name: str) -> type[Codec]:
    """Return the codec of this name.

    Raises:
        InputError: No codec has this name; the message suggests one that is similar.
    """
    known = _codecs()
    if name not in known:
        raise InputError(f"codec {unknown(name, known)}")
    return known[name]
