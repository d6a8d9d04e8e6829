"""Make a config.json say what the tensors beside it are.

Libraries load by config.json: a stale dtype costs twice the memory, a stale ``tie_word_embeddings``
throws the output head away.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..spec.choices import Tied
from ..spec.dtypes import BY_NAME, FLOAT8, FLOATS
from .checkpoint import Checkpoint
from .config_sizes import refuse_other_sizes, true_vocabulary
from .json_text import is_object, json_object, read_text
from .layout import Entry
from .parts import folder_of
from .quantised import quantisation, without_quantisation
from .stacked import LayersOf, with_layers
from .tied import is_embedding, is_head

_DTYPE_KEYS: Final = ("dtype", "torch_dtype")
_TIED_KEY: Final = "tie_word_embeddings"

_ALSO_IN: Final = {"text": "language", "llm": "language", "vision": "visual"}
"""Components of the names of a nested model's tensors, beside the name of its configuration."""


@dataclass(frozen=True)
class Written:
    """The tensors of a part as they are written, as far as config.json speaks of them."""

    tensors: Sequence[Entry]
    """Their names are those in the part's files."""
    tied: Collection[str] = ()
    """Names that are written with the values of another name."""
    left_out_head: bool = False
    """True if an output head that is not written is the embedding, not missing."""
    untied: bool = False
    """True if the request asks for a head that is not the embedding."""
    asked_dtype: bool = False
    """True if the request states the dtype of the result."""
    donated: bool = False
    """True if config.json is that of another model than the one that named the tensors."""
    joined: bool = False
    """True if the request asks for another vocabulary than the one that config.json states."""
    layers: Sequence[LayersOf] = ()
    """The layers of a stack, by the part of config.json that counts them."""


def written_parts(
    template: Checkpoint,
    tensors: Iterable[Entry],
    tied: Collection[str],
    *,
    asked_dtype: bool = False,
    asked_tied: Tied = Tied.AS_BASE,
    donated: bool = False,
    joined: bool = False,
    layers: Sequence[LayersOf] = (),
) -> dict[str, Written]:
    """Sort the tensors of a result by the folders of the template's parts.

    Args:
        template: The model whose names the tensors have.
        tensors: The tensors, as they are written.
        tied: Names that are written with the values of another name.
        asked_dtype: True if the request states the dtype of the result.
        asked_tied: The state of the heads that the request states.
        donated: True if the files beside the tensors are those of another model.
        joined: True if the request asks for another vocabulary.
        layers: The layers of a stack, which the template's own part has.
    """
    had_heads = {folder_of(name, template.parts) for name in template.tensors if is_head(name)}
    had_heads |= {
        part.folder for part in template.parts if True in _stated_ties(template.config(part.folder))
    }
    if asked_tied is Tied.TIE:
        had_heads |= {folder_of(n, template.parts) for n in template.tensors if is_embedding(n)}
    by_folder: dict[str, list[Entry]] = {part.folder: [] for part in template.parts}
    tied_in: dict[str, set[str]] = {folder: set() for folder in by_folder}
    for name, dtype, shape in tensors:
        folder = folder_of(name, template.parts)
        own = name[len(folder) + 1 :] if folder else name
        by_folder[folder].append((own, dtype, shape))
        if name in tied:
            tied_in[folder].add(own)
    return {
        folder: Written(
            found,
            tied_in[folder],
            left_out_head=folder in had_heads,
            untied=asked_tied is Tied.UNTIE,
            asked_dtype=asked_dtype,
            donated=donated,
            joined=joined,
            layers=() if folder else layers,
        )
        for folder, found in by_folder.items()
    }


def true_configurations(
    places: Mapping[Path, Path], parts: Mapping[str, Written]
) -> dict[Path, bytes]:
    """Return the new text of each config.json beside a result that must say something else.

    Args:
        places: The files that are copied beside the result, by their relative paths.
        parts: The tensors of each part of the result, by the folder of the part.

    Raises:
        InputError: A file cannot be made true: it states sizes that the tensors do not have.
        StorageError: A file cannot be read.
    """
    changed = {}
    for folder, written in parts.items():
        relative = Path(folder, "config.json")
        if (place := places.get(relative)) is not None:
            text = read_text(place)
            new = true_text(text, str(place), written)
            if new != text:
                changed[relative] = new
    return changed


def true_text(text: bytes, where: str, written: Written) -> bytes:
    """Return the text of a config.json that is true of these tensors.

    Args:
        text: The text. If nothing in it is wrong, it is returned as it is.
        where: The file, for messages.
        written: The tensors.

    Raises:
        InputError: The text is no JSON object, or states sizes that the tensors do not have.
    """
    config = json_object(text, where)
    new = without_quantisation(config) if quantisation(config) else config
    new = _with_dtype(new, written)
    new = _with_tied(new, written)
    for nested, key, layers in written.layers:
        inner = with_layers(new[nested] if nested else new, key, layers)
        new = {**new, nested: inner} if nested else inner
    if written.joined:
        new = true_vocabulary(new, where, written.tensors)
    if written.donated or written.layers:
        refuse_other_sizes(new, where, written.tensors)
    new = true_vocabulary(new, where, written.tensors)
    return text if new == config else as_before(new, text)


def as_before(config: Mapping[str, Any], text: bytes) -> bytes:
    """Write JSON in the manner of a text: its indentation, escapes and last line."""
    indent = re.match(rb"\s*\{\r?\n([ \t]+)", text)
    made = json.dumps(
        config,
        indent=indent[1].decode() if indent else None if b"\n" not in text.strip() else 2,
        ensure_ascii=text.isascii(),
    ).encode()
    return made + text[len(text.rstrip()) :]


def stated_dtype(tensors: Sequence[Entry]) -> str | None:
    """Return the dtype that config.json states for these tensors; None if they have none.

    The dtype of most elements of floating point counts: the one in which the model needs no more
    memory than its file, but for a few tensors kept in another. No library loads a model in float8.
    """
    elements: Counter[str] = Counter()
    for _, dtype, shape in tensors:
        if dtype in FLOATS and dtype not in FLOAT8:
            elements[dtype] += math.prod(shape)
    if not elements:
        return None
    # The wider of two that are equal holds the values of both.
    most = max(elements, key=lambda dtype: (elements[dtype], BY_NAME[dtype].n_bytes, dtype))
    return BY_NAME[most].array_name


def _with_dtype(config: dict[str, Any], written: Written) -> dict[str, Any]:
    dtype = stated_dtype(written.tensors)
    if dtype is None:
        return config
    new = _restated(config, dtype, written.tensors)
    states = any(new.get(key) is not None for key in _DTYPE_KEYS)
    if written.asked_dtype and not states and is_of_transformers(config):
        key = next((key for key in _DTYPE_KEYS if key in new), _dtype_key(config))
        new = {**new, key: dtype}
    return new


def _restated(config: dict[str, Any], dtype: str, tensors: Sequence[Entry]) -> dict[str, Any]:
    """Return a configuration, and its nested ones, with this dtype where they state one."""
    new: dict[str, Any] = {}
    for key, value in config.items():
        if key in _DTYPE_KEYS and isinstance(value, str):
            new[key] = dtype
        elif key in _DTYPE_KEYS and is_object(value):
            new[key] = {
                one: stated_dtype(_tensors_of(one, tensors)) or dtype if one else dtype
                for one in value
            }
        elif is_object(value) and is_nested(key, value):
            inner = _tensors_of(key, tensors)
            new[key] = _restated(value, stated_dtype(inner) or dtype, inner)
        else:
            new[key] = value
    return new


def is_nested(key: str, value: Mapping[str, Any]) -> bool:
    """Tell if an object in a configuration configures a model inside the model."""
    return "model_type" in value or (key.endswith("_config") and key != "quantization_config")


def _tensors_of(key: str, tensors: Sequence[Entry]) -> Sequence[Entry]:
    """Return the tensors of the nested model that a key configures; all, if no name tells them."""
    word = key.removesuffix("_config")
    words = tuple(filter(None, (word, _ALSO_IN.get(word))))
    found = [one for one in tensors if any(part.startswith(words) for part in one[0].split("."))]
    return found or tensors


def is_of_transformers(config: Mapping[str, Any]) -> bool:
    """Tell if transformers reads a configuration; others do not take keys that they do not know."""
    return "_class_name" not in config and ("model_type" in config or "architectures" in config)


def _dtype_key(config: Mapping[str, Any]) -> str:
    """Return the key that the configuration's version of transformers reads.

    Since 4.56 it is ``dtype``; all versions read ``torch_dtype``.
    """
    version = re.match(r"(\d+)\.(\d+)", str(config.get("transformers_version", "")))
    is_new = version is not None and (int(version[1]), int(version[2])) >= (4, 56)
    return "dtype" if is_new else "torch_dtype"


def _with_tied(config: dict[str, Any], written: Written) -> dict[str, Any]:
    """Return a configuration that ties embedding and head if, and only if, the tensors are tied."""
    heads = [name for name, _, _ in written.tensors if is_head(name)]
    stated = list(_stated_ties(config))
    if any(head not in written.tied for head in heads):
        if True in stated:
            return _retied(config, False)
        if written.untied and not stated and is_of_transformers(config):
            return {**config, _TIED_KEY: False}
    if not heads and written.left_out_head and True not in stated and is_of_transformers(config):
        return _retied(config, True) if stated else {**config, _TIED_KEY: True}
    return config


def _stated_ties(config: Mapping[str, Any]) -> Iterator[bool]:
    for key, value in config.items():
        if key == _TIED_KEY and isinstance(value, bool):
            yield value
        elif is_object(value) and is_nested(key, value):
            yield from _stated_ties(value)


def _retied(config: Mapping[str, Any], tied: bool) -> dict[str, Any]:
    new: dict[str, Any] = {}
    for key, value in config.items():
        if key == _TIED_KEY and isinstance(value, bool):
            new[key] = tied
        elif is_object(value) and is_nested(key, value):
            new[key] = _retied(value, tied)
        else:
            new[key] = value
    return new
