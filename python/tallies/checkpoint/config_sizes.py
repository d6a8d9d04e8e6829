"""The sizes that a config.json states, held against those that the tensors plainly show."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from ..errors import InputError
from .json_text import is_object
from .layout import Entry
from .tied import is_embedding, is_head

_VOCABULARY: Final = "vocab_size"
_PADDING: Final = "pad_vocab_size_multiple"
_TEXT_PARTS: Final = ("text_config", "llm_config")

_LAYER: Final = re.compile(r"(?P<before>(?:.*?\.)?)(?:layers?|h|blocks?)\.(?P<number>\d+)\.")
_UP: Final = re.compile(r"\.mlp\.up_proj\.weight\Z")

_OTHER_WIDTHS: Final = re.compile(r"embed\w*_(?:size|dim)|emb_dim|d_embed|word_embed")
"""Keys of models whose embeddings are narrower than their layers."""
_OTHER_LAYERS: Final = re.compile("nextn|mtp")
"""Keys of models with layers beside those that they count."""


def true_vocabulary(config: dict[str, Any], where: str, tensors: Sequence[Entry]) -> dict[str, Any]:
    """Return a configuration whose ``vocab_size`` is the number of rows of the embedding.

    A vocabulary that is stated without its padding, and one of a model with code of its own, stays.

    Raises:
        InputError: Embedding and output head have different numbers of rows.
    """
    rows = dict(_rows(tensors))
    if len(rows) != 1 or "auto_map" in config:
        return config
    ((n_rows, embedding),) = rows.items()
    new = dict(config)
    for key, part in _parts(config):
        stated = part.get(_VOCABULARY)
        if type(stated) is not int or stated == n_rows or _PADDING in part:
            continue
        for name, _, shape in tensors:
            if is_head(name) and len(shape) == 2 and shape[0] != n_rows:
                raise InputError(
                    f"{where}: {_VOCABULARY} is {stated}, but {embedding} has {n_rows} and "
                    f"one of {name!r} {shape[0]}; resize embedding and head to one vocabulary"
                )
        if key:
            new[key] = {**part, _VOCABULARY: n_rows}
        else:
            new[_VOCABULARY] = n_rows
    return new


def stated_vocabulary(config: Mapping[str, Any]) -> int | None:
    """Return the ``vocab_size`` of a configuration, or of the text model in it."""
    for _, part in _parts(config):
        stated = part.get(_VOCABULARY)
        if type(stated) is int and stated > 0:
            return stated
    return None


def refuse_other_sizes(config: Mapping[str, Any], where: str, tensors: Sequence[Entry]) -> None:
    """Refuse a configuration that states sizes which the tensors plainly do not have.

    Raises:
        InputError: A width or the number of layers is another one.
    """
    if "auto_map" in config:
        return
    for _, part in _parts(config):
        for keys, other, sizes in _SIZES:
            found = dict(sizes(tensors))
            if len(found) != 1 or (other and any(map(other.search, part))):
                continue
            ((size, tensor),) = found.items()
            for key in keys:
                stated = part.get(key)
                if type(stated) is int and stated != size:
                    raise InputError(
                        f"{where}: {key} is {stated}, but {tensor} has {size}; take the files of a "
                        "model of the same sizes (--files-from)"
                    )


def _parts(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the configuration and those of the text models in it, each with its key."""
    yield "", config
    for key in _TEXT_PARTS:
        if is_object(part := config.get(key)):
            yield key, part


def _rows(tensors: Sequence[Entry]) -> Iterator[tuple[int, str]]:
    for name, _, shape in tensors:
        if is_embedding(name) and len(shape) == 2:
            yield shape[0], f"a column of tensor {name!r}"


def _widths(tensors: Sequence[Entry]) -> Iterator[tuple[int, str]]:
    for name, _, shape in tensors:
        if is_embedding(name) and len(shape) == 2:
            yield shape[1], f"a row of tensor {name!r}"


def _up_rows(tensors: Sequence[Entry]) -> Iterator[tuple[int, str]]:
    for name, _, shape in tensors:
        if _UP.search(name) and len(shape) == 2:
            yield shape[0], f"a column of tensor {name!r}"


def _n_layers(tensors: Sequence[Entry]) -> Iterator[tuple[int, str]]:
    """Yield the number of layers, if all of them are in one stack that has no gap."""
    stacks: dict[str, set[int]] = {}
    for name, _, _ in tensors:
        if found := _LAYER.match(name):
            stacks.setdefault(found["before"], set()).add(int(found["number"]))
    if len(stacks) == 1:
        ((_, numbers),) = stacks.items()
        if numbers == set(range(len(numbers))):
            yield len(numbers), "the model"


_SIZES: Final[
    tuple[
        tuple[
            tuple[str, ...],
            re.Pattern[str] | None,
            Callable[[Sequence[Entry]], Iterator[tuple[int, str]]],
        ],
        ...,
    ]
] = (
    ((_VOCABULARY,), re.compile(_PADDING), _rows),
    (("hidden_size", "n_embd", "d_model"), _OTHER_WIDTHS, _widths),
    (("intermediate_size",), None, _up_rows),
    (("num_hidden_layers", "n_layer"), _OTHER_LAYERS, _n_layers),
)
