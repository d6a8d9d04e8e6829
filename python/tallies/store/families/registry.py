"""The families of codecs by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ...discovery import classes_in
from ...recipe.parameters import check_parameters
from ...spec.choices import Semantics
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
        parameters: Parameters of the codec by name; those that are missing take their defaults.

    Raises:
        InputError: No codec has this name, or it has no such parameter or value.
    """
    found = codecs.get(codec)
    values = {
        **{name: one.default for name, one in found.parameters().items()},
        **check_parameters(parameters, found, Semantics.PAPER, where=f"codec {codec}"),
    }
    values.pop("mask_lambda", None)  # tasks have one each, or several candidates
    return _families()[found.family](found, values)
