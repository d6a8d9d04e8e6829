"""The small files of a result whose vocabulary is joined: tokenizer, template and special ids."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ..checkpoint.configuration import as_before, is_nested
from ..checkpoint.json_text import is_object, json_object, read_text
from .tokenizer import ADDED, CONFIG, NAMED, SPECIAL, TEXT, Tokenizer

_TEMPLATE: Final = "chat_template.jinja"
_TEMPLATE_KEY: Final = "chat_template"
_LISTED: Final = ("extra_special_tokens", "additional_special_tokens")
_ID: Final = ("_token_id", "_token_index")
_IDS: Final = ("suppress_tokens", "begin_suppress_tokens")
_VOCABULARY: Final = "vocab_size"


def tokenizer_texts(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return the files of a tokenizer that say something else than those they come from, by name.

    Raises:
        InputError: A file is no JSON object.
        StorageError: A file cannot be read.
    """
    if tokenizer.changed is None:
        return {}
    texts = {TEXT: tokenizer.text.encode()}
    changes: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        CONFIG: lambda data: _decoder(_known(data, tokenizer), tokenizer),
        SPECIAL: lambda data: _known(data, tokenizer),
        ADDED: lambda _: _added(tokenizer),
    }
    for name, change in changes.items():
        if name in tokenizer.files:
            texts[name] = _changed(tokenizer.files[name], change)
    return texts


def config_text(
    file: Path, text: bytes, old: Tokenizer | None, new: Tokenizer, n_rows: int
) -> bytes:
    """Return the text of a configuration with the ids that its tokens have now.

    An id whose token is gone becomes that of the token which the new tokenizer names for the same
    use, or none.

    Args:
        file: The file, for messages.
        text: Its text: config.json or generation_config.json.
        old: The tokenizer that the configuration was written for.
        new: The tokenizer of the result.
        n_rows: The rows of the result's embedding.
    """
    data = json_object(text, str(file))
    made = _with_size(_with_ids(data, old, new, n_rows), n_rows)
    return text if made == data else as_before(made, text)


def template_texts(
    files: Mapping[str, Path], texts: Mapping[str, bytes], template: str
) -> dict[str, bytes]:
    """Return the files that state a chat template, by name.

    Args:
        files: The files of the result's tokenizer.
        texts: Those that say something else already.
        template: The text of the template.
    """
    found = {_TEMPLATE: template.encode()}
    for name in (CONFIG, "chat_template.json"):
        if name not in files:
            continue
        text = texts.get(name, read_text(files[name]))
        data = json_object(text, str(files[name]))
        if _TEMPLATE_KEY in data:
            new = {**data, _TEMPLATE_KEY: _template(data[_TEMPLATE_KEY], template)}
            found[name] = as_before(new, text)
    return found


def _template(stated: object, template: str) -> object:
    if not isinstance(stated, list):
        return template
    others = [one for one in stated if not (is_object(one) and one.get("name") == "default")]
    return [{"name": "default", "template": template}, *others]


def _changed(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    text = read_text(file)
    data = json_object(text, str(file))
    made = change(data)
    return text if made == data else as_before(made, text)


def _known(data: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return special tokens by use without those that the tokenizer lacks: loading adds them."""
    made = {key: one for key, one in data.items() if key not in NAMED or _is_in(one, tokenizer)}
    for key in _LISTED:
        listed = made.get(key)
        if isinstance(listed, list):
            made[key] = [one for one in listed if _is_in(one, tokenizer)]
        elif is_object(listed):
            made[key] = {use: one for use, one in listed.items() if _is_in(one, tokenizer)}
    return made


def _is_in(value: object, tokenizer: Tokenizer) -> bool:
    text = value.get("content") if is_object(value) else value
    return not isinstance(text, str) or text in tokenizer.tokens


def _decoder(data: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return a configuration with all added tokens, if it lists them at all."""
    if "added_tokens_decoder" not in data:
        return data
    ordered = sorted(tokenizer.added, key=tokenizer.tokens.__getitem__)
    decoder = {
        str(tokenizer.tokens[token]): {"content": token, **tokenizer.added[token]}
        for token in ordered
    }
    return {**data, "added_tokens_decoder": decoder}


def _added(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the numbers of the tokens that are not in the vocabulary of the file before them."""
    vocabulary = json.loads(tokenizer.text)["model"]["vocab"]
    own = set(vocabulary if is_object(vocabulary) else (one[0] for one in vocabulary))
    return {token: tokenizer.tokens[token] for token in tokenizer.added if token not in own}


def _with_ids(
    data: Mapping[str, Any], old: Tokenizer | None, new: Tokenizer, n_rows: int
) -> dict[str, Any]:
    tokens = {} if old is None else {number: token for token, number in old.tokens.items()}

    def moved(key: str, number: object) -> object:
        if type(number) is not int or number < 0:
            return number
        token = tokens.get(number)
        if token is None:
            return number if number < n_rows else None
        if token in new.tokens:
            return new.tokens[token]
        named = new.config.get(key.removesuffix("_id"))
        named = named.get("content") if is_object(named) else named
        return new.tokens.get(named) if isinstance(named, str) else None

    made: dict[str, Any] = {}
    for key, value in data.items():
        if is_object(value) and is_nested(key, value):
            made[key] = _with_ids(value, old, new, n_rows)
        elif not (key.endswith(_ID) or key in _IDS):
            made[key] = value
        elif isinstance(value, list):
            numbers = [moved(key, one) for one in value]
            made[key] = [one for one in numbers if one is not None]
        else:
            made[key] = moved(key, value)
    return made


def _with_size(data: dict[str, Any], n_rows: int) -> dict[str, Any]:
    made = dict(data)
    for key in ("text_config", "llm_config"):
        if is_object(part := made.get(key)) and _VOCABULARY in part:
            made[key] = {**part, _VOCABULARY: n_rows}
    if _VOCABULARY in made:
        made[_VOCABULARY] = n_rows
    return made
