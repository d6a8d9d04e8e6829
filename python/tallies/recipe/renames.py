"""Renamings of models from the command line."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from ..messages import show, unknown
from .config import MergeConfig


def parse_rename(text: str) -> tuple[str, str, str]:
    """Parse ``MODEL=OLD:NEW`` into the model, the old prefix and the new one.

    Names of tensors have no ``=``, names of models may: the last one counts.

    Raises:
        InputError: The text has another form.
    """
    model, equals, prefixes = text.rpartition("=")
    old, colon, new = prefixes.partition(":")
    if not (model and equals and colon):
        raise InputError(
            f"--rename {show(text)}: expected MODEL=OLD:NEW, such as tuned=transformer.: for "
            "'transformer.' and nothing in its place"
        )
    return model, old, new


def with_renames(config: MergeConfig, texts: Sequence[str]) -> MergeConfig:
    """Return a request with renamings of its models, each ``MODEL=OLD:NEW``.

    Raises:
        InputError: A text has another form, or names no model of the request.
    """
    entries = list(config.models)
    for text in texts:
        model, old, new = parse_rename(text)
        fitting = [
            i
            for i, entry in enumerate(entries)
            if config.places.identity(entry.model) == config.places.identity(model)
        ]
        if not fitting:
            raise InputError(f"--rename {unknown(model, [entry.model for entry in entries])}")
        for i in fitting:
            rename = {**(entries[i].rename or {}), old: new}
            entries[i] = entries[i].model_copy(update={"rename": rename})
    return config.model_copy(update={"models": tuple(entries)}) if texts else config
