"""The models of a request, with a base before each adapter that stands alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .adapters import other_base, with_base
from .models import ModelEntry
from .places import Places
from .vocabulary import restated


def with_bases(
    base: str | None, texts: Iterable[str], places: Places
) -> tuple[str | None, list[str], list[str]]:
    """Put the models that adapters change before those that stand alone; see ``with_base``.

    Args:
        base: The text of the base, or None.
        texts: The texts of the models.
        places: The directories from which the texts lead.

    Returns:
        The text of the base and those of the models, with commits, and warnings.

    Raises:
        InputError: No base is known for an adapter, or a model of the hub is none.
        StorageError: The hub fails.
    """
    if base is not None:
        base = places.pinned(with_base(places.pinned(base), places))
    found: list[str] = []
    warnings: list[str] = []
    for text in map(places.pinned, texts):
        whole = places.pinned(with_base(text, places, base))
        if whole != text and base is not None:
            warnings += other_base(text, whole, base, places)
        found.append(whole)
    return base, found, warnings


def pinned_values(values: Mapping[str, Any], places: Places) -> tuple[dict[str, Any], list[str]]:
    """Return the values of a recipe's keys that name models, with commits and with bases.

    Args:
        values: The values, as ``models.stated`` returns them.
        places: The directories from which the texts lead.

    Returns:
        The values by key, and warnings.
    """
    models: Sequence[ModelEntry] = values["models"]
    given = [entry.model for entry in models]
    base, texts, warnings = with_bases(values["base_model"], given, places)
    entries = tuple(
        entry.model_copy(update={"model": text}) for entry, text in zip(models, texts, strict=True)
    )
    donor = values["files_from"] and places.pinned(values["files_from"])
    # An adapter alone has its base before it wherever the recipe names it.
    whole = dict(zip(given, texts, strict=True))
    joined = restated(values["tokenizer"], lambda text: whole.get(text) or places.pinned(text))
    made = {"base_model": base, "models": entries, "files_from": donor, "tokenizer": joined}
    return made, warnings
