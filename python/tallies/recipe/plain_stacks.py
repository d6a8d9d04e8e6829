"""Slices and modules of a recipe that is plain data still."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def with_models(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe of plain data with each model of its sources once under ``models``.

    A recipe that has ``models`` stays as it is, and so does one without sources.
    """
    found: dict[str, None] = {}
    for one in _plain_slices(data):
        sources = one.get("sources")
        for source in sources if isinstance(sources, (list, tuple)) else ():
            if isinstance(source, Mapping) and isinstance(source.get("model"), str):
                found.setdefault(source["model"])
    models = [{"model": text} for text in found]
    return {"models": models, **data} if models else dict(data)


def owners(data: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all of plain ``slices`` and ``modules`` that may have parameters, and their models.

    The text of the model is empty for a module or a slice.
    """
    modules = data.get("modules")
    for module in modules.values() if isinstance(modules, Mapping) else ():
        if isinstance(module, dict):
            yield "", module
    for one in _plain_slices(data):
        yield "", one
        for source in one.get("sources") or ():
            if isinstance(source, dict):
                yield str(source.get("model")), source


def _plain_slices(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    modules = data.get("modules")
    lists = [data.get("slices")]
    lists += (
        [one.get("slices") for one in modules.values() if isinstance(one, Mapping)]
        if (isinstance(modules, Mapping))
        else []
    )
    for one in lists:
        for each in one if isinstance(one, (list, tuple)) else ():
            if isinstance(each, dict):
                yield each
