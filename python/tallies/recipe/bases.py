"""The models of a request, with a base before each adapter that stands alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .adapters import other_base, with_base
from .models import ModelEntry
from .places import Places


def with_bases(
    base_model: str | None, entries: Iterable[ModelEntry], places: Places
) -> tuple[dict[str, Any], list[str]]:
    """Put the models that adapters change before those that stand alone; see ``with_base``.

    Returns:
        The values of ``base_model`` and ``models``, and warnings.
    """
    base = None if base_model is None else places.pinned(with_base(base_model, places))
    models: list[ModelEntry] = []
    warnings: list[str] = []
    for entry in entries:
        text = places.pinned(with_base(entry.model, places, base))
        models.append(entry.model_copy(update={"model": text}))
        if text != entry.model and base is not None:
            warnings += other_base(entry.model, text, base, places)
    return {"base_model": base, "models": tuple(models)}, warnings
