"""The keys of a recipe about models that differ, and about tensors that not all of them have.

``rename`` of a model gives its tensors other prefixes. ``missing`` and ``extra`` are settings, each
a word or a list of ``filter`` rules by the tensor's name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from ..errors import InputError
from ..messages import show, unknown
from ..spec.choices import Architecture, Choice, Embeddings, Extra, Missing, Tied
from .settings import Setting, evaluate, filters, matches, nearest, normalise


def _renaming(value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(
        isinstance(text, str) for pair in value.items() for text in pair
    ):
        raise ValueError(
            f"found {show(value)}, expected {{PREFIX: PREFIX}}, such as {{model.: ''}}"
        )
    return dict(value) or None


def _word(value: object, kind: type[Choice]) -> str:
    if value not in tuple(kind):
        raise ValueError(unknown(value, tuple(kind)))
    return kind(value)


def _word_or_file(value: object) -> str:
    """Return a word of ``Embeddings``, or the text of a path."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if text in tuple(Embeddings):
        return Embeddings(text)
    # A word that is misspelt is no path of a file of weights.
    if not isinstance(text, str) or ("." not in text and os.sep not in text):
        raise ValueError(f"{unknown(value, tuple(Embeddings))}, or a file such as new.safetensors")
    return text


def _architecture(value: object) -> str | None:
    return None if value is None else _word(value, Architecture)


def _setting(kind: type[Choice]) -> BeforeValidator:
    def check(value: object) -> Setting | None:
        return None if value is None else normalise(value, partial(_word, kind=kind))

    return BeforeValidator(check)


Renaming = Annotated[Any, BeforeValidator(_renaming)]
"""New prefixes of names by old ones, or None."""


class TensorKeys(BaseModel):
    """The keys of a recipe about differences between its models."""

    model_config = ConfigDict(defer_build=True)

    missing: Annotated[Any, _setting(Missing)] = None
    """The treatment of tensors that a model lacks and the base has; errors by default."""
    extra: Annotated[Any, _setting(Extra)] = None
    """The treatment of tensors that a model has and the base lacks; errors by default."""
    architecture: Annotated[Any, BeforeValidator(_architecture)] = None
    """The treatment of models of different architectures; errors by default."""
    tied: Annotated[Tied, BeforeValidator(partial(_word, kind=Tied))] = Tied.AS_BASE
    """The output head of the result, where it is the input embedding in some of the models."""
    embeddings: Annotated[Embeddings | str, BeforeValidator(_word_or_file)] = Embeddings.ERROR
    """The treatment of embeddings and heads of vocabularies of different sizes, or the path of a
    file whose tensors are those of the result."""

    @property
    def embeddings_file(self) -> str | None:
        """The text of the file whose tensors are embeddings of the result."""
        return None if isinstance(self.embeddings, Embeddings) else self.embeddings

    @property
    def resizes(self) -> bool:
        """True if embeddings of the result may have other rows than those of the base."""
        return self.embeddings not in (Embeddings.ERROR, Embeddings.BASE_ROWS)


def rules(texts: Sequence[str]) -> Any:
    """Return the setting that ``[FILTER=]WORD`` options make; None for none.

    A word without a filter is for all other names.
    """
    made = [
        {"filter": pattern or None, "value": word}
        for pattern, _, word in (text.rpartition("=") for text in texts)
    ]
    return sorted(made, key=lambda rule: rule["filter"] is None) or None


def by_name(setting: Setting | None, default: str) -> Callable[[str], str]:
    """Return the function from a tensor's name to its word."""
    if setting is None:
        return lambda name: default
    return lambda name: str(evaluate(setting, name, 0.0) or default)


def chosen(key: str, value: object, kind: type[Choice]) -> Callable[[str], str]:
    """Return the function from a tensor's name to its word, for a value given in Python.

    Raises:
        InputError: The value is none of the words, nor rules of them.
    """
    default = next(iter(kind))
    try:
        setting = None if value is None else normalise(value, partial(_word, kind=kind))
    except ValueError as problem:
        raise InputError(f"{key}: {problem}") from None
    return by_name(setting, default)


def refuse_strays(key: str, setting: Setting | None, names: Iterable[str]) -> None:
    """Raise InputError for a filter that is part of no tensor's name.

    Args:
        key: The key of the recipe.
        setting: Its value.
        names: The names of all tensors of all models.
    """
    known = list(names)
    for pattern in filters(setting) if setting is not None else ():
        if not any(matches(pattern, name) for name in known):
            raise InputError(
                f"{key}: filter {show(pattern)} fits no tensor of any model; "
                f"{nearest(pattern, known)}; correct it, or remove the rule"
            )
