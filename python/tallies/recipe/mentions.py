"""Find the models that a recipe names, and names that are misspelt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import InputError
from ..messages import did_you_mean, show
from .places import Places
from .spelling import MODEL_KEYS, model_text
from .vocabulary import WORDS


def mentions(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield the places and texts of the models anywhere in a recipe, without those of its stages.

    >>> list(mentions({"base_model": "a", "models": ["b", {"model": "c"}]}))
    [('base_model', 'a'), ('models[0]', 'b'), ('models[1]', 'c')]
    """
    if isinstance(value, Mapping):
        for key, one in value.items():
            at = f"{where}.{key}" if where else str(key)
            if key in ("model", *MODEL_KEYS):
                yield from _text(one, (where or at) if key == "model" else at)
            elif key == "models" and isinstance(one, (list, tuple)):
                for number, entry in enumerate(one):
                    inner = mentions if isinstance(entry, Mapping) else _text
                    yield from inner(entry, f"{at}[{number}]")
            elif key not in ("stages", "parameters"):
                yield from mentions(one, at)
    elif isinstance(value, (list, tuple)):
        for number, one in enumerate(value):
            yield from mentions(one, f"{where}[{number}]")


def _text(value: object, where: str) -> Iterator[tuple[str, str]]:
    text = model_text(value)
    if isinstance(text, str):
        yield where, text


def refuse_misspelt(data: Mapping[str, Any], places: Places) -> None:
    """Refuse names that nothing has, and that are nearly those of stages or sources of tokenizers.

    Args:
        data: The recipe as plain data.
        places: The directories of paths, and the names of stages.

    Raises:
        InputError: A name is misspelt; the message says the key and the name that is near.
    """
    stages = [name for name, _ in places.stages]
    for where, text in mentions(data):
        _refuse(where, text, stages, "a stage", places)
    tokenizer = data.get("tokenizer")
    source = model_text(tokenizer.get("source")) if isinstance(tokenizer, Mapping) else None
    if isinstance(source, str) and source not in WORDS:
        _refuse("tokenizer: source", source, [*WORDS, *stages], "base, union", places)


def _refuse(where: str, text: str, known: list[str], what: str, places: Places) -> None:
    if not known or not text or "\0" in text:
        return
    name = places.pieces(text)[0]
    if places.is_local(name) or places.hub_model(name) is not None:
        return
    if hint := did_you_mean(name, known):
        raise InputError(f"{where}: {show(name)} is neither {what} nor a model that exists{hint}")
