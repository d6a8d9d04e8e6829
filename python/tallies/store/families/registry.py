"""The families of codecs by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ...discovery import classes_in
from ..codecs import registry as codecs
from .family import Family


@cache
def _families() -> dict[str, type[Family]]:
    package = __name__.rpartition(".")[0]
    found = classes_in(package, Family)  # type: ignore[type-abstract]
    return {family.name: family for family in found if family is not Family}


def codecs_that_read_decoded(*, adapters: bool = False) -> list[str]:
    """Return the codecs that pack float8 tensors with scales, in reading order.

    Args:
        adapters: Leave out those that do not take models with adapters.
    """
    found = [one for one in codecs.names() if _families()[codecs.get(one).family].reads_decoded]
    return [one for one in found if not (adapters and codecs.get(one).of_stored)]


def family_of(codec: str, parameters: Mapping[str, Any]) -> Family:
    """Return the family that packs and restores a codec's tensors.

    Args:
        codec: The name of a codec.
        parameters: All parameters of the codec by name.

    Raises:
        InputError: No codec has this name.
    """
    found = codecs.get(codec)
    return _families()[found.family](found, parameters)
