"""A tokenizer beside a model, with the tokens that libraries give it when they load it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from ..checkpoint.beside import TOKENIZER_FILES
from ..checkpoint.json_text import is_object, json_object, read_text
from ..errors import InputError
from ..messages import show
from .library import library, parsed

TEXT: Final = "tokenizer.json"
CONFIG: Final = "tokenizer_config.json"
ADDED: Final = "added_tokens.json"
SPECIAL: Final = "special_tokens_map.json"

FILES: Final = TOKENIZER_FILES
"""The files of a tokenizer in the directory of a model."""

_WITHOUT_TEXT: Final = (
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json"),
)

NAMED: Final = (
    *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
)
"""The keys of tokenizer_config.json that name a special token, in the order of libraries."""

_LISTED: Final = ("extra_special_tokens", "additional_special_tokens")

MOST_FREE: Final = 1 << 20
"""The most numbers without a token that a tokenizer of a result may have below its last one."""

_DIGITS: Final = 18

_FLAGS: Final = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer as libraries load it from the files beside a model."""

    files: Mapping[str, Path]
    """The files by their names in the directory of the model."""
    tokens: Mapping[str, int]
    """The number of each token."""
    added: Mapping[str, Mapping[str, Any]]
    """The flags of added tokens, and of special ones, in the order of their numbers."""
    changed: str | None = None
    """A tokenizer.json that says all of it, where the file does not."""

    @property
    def text(self) -> str:
        """A tokenizer.json that says all of it."""
        return _text(self.files[TEXT]) if self.changed is None else self.changed

    @property
    def folder(self) -> Path:
        """The directory of its file."""
        return self.files[TEXT].parent

    @cached_property
    def n_rows(self) -> int:
        """The rows that an embedding needs for it: one a token, or more where numbers are free."""
        return max(len(self.tokens), max(self.tokens.values(), default=-1) + 1)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of tokenizer_config.json."""
        return _object(self.files.get(CONFIG))


def read(files: Mapping[str, Path], why: str) -> Tokenizer | None:
    """Read the tokenizer among the files beside a model.

    Args:
        files: Files by their names in the directory of the model.
        why: The part of the request that needs the tokenizer, for messages.

    Returns:
        The tokenizer; None if there is none.

    Raises:
        InputError: The tokenizer has a format that is not read, or is damaged.
        StorageError: A file cannot be read.
    """
    own = {name: files[name] for name in FILES if name in files}
    if TEXT not in own:
        for name in _WITHOUT_TEXT:
            if name in own:
                raise InputError(
                    f"{why}: found {own[name]} and no {TEXT} beside it; write one: "
                    f"AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) of transformers"
                )
        return None
    made = parsed(_text(own[TEXT]), own[TEXT], why)
    config, special = _object(own.get(CONFIG)), _object(own.get(SPECIAL))
    changed = _complete(made, config, special, why)
    tokens = made.get_vocab(with_added_tokens=True)
    ordered = dict(sorted(tokens.items(), key=lambda item: item[1]))
    flags = {
        one.content: _flags_of(one) for _, one in sorted(made.get_added_tokens_decoder().items())
    }
    for name in _named(config, special):
        if name in tokens:
            flags.setdefault(name, _special())
    added = dict(sorted(flags.items(), key=lambda item: tokens[item[0]]))
    return Tokenizer(own, ordered, added, made.to_str(pretty=True) if changed else None)


def refuse_sparse(tokenizer: Tokenizer, why: str) -> None:
    """Raise InputError for a token whose number is far beyond those of all others.

    A result has a row for each number, so that one token could ask for any amount of memory.

    Args:
        tokenizer: The tokenizer whose numbers a result has.
        why: The part of the request that asks for it.
    """
    if tokenizer.n_rows <= len(tokenizer.tokens) + MOST_FREE:
        return
    token, number = max(tokenizer.tokens.items(), key=lambda item: item[1])
    raise InputError(
        f"{why}: {tokenizer.files[TEXT]}: token {show(token)} has the number {number}, and there "
        f"are {len(tokenizer.tokens)} tokens, expected at most {MOST_FREE} numbers without one; "
        "correct its id, or take another source"
    )


def cut(tokenizer: Tokenizer, n_rows: int, why: str) -> Tokenizer:
    """Return a tokenizer without the tokens whose numbers are ``n_rows`` or more.

    The embedding of the model has no row for them.

    Raises:
        InputError: The library cannot read what is left.
    """
    lost = {token for token, number in tokenizer.tokens.items() if number >= n_rows}
    if not lost:
        return tokenizer
    data = json.loads(tokenizer.text)
    added = data.get("added_tokens") or ()
    data["added_tokens"] = [one for one in added if one["content"] not in lost]
    model = data["model"]
    if is_object(model["vocab"]):
        model["vocab"] = {token: n for token, n in model["vocab"].items() if token not in lost}
    else:
        model["vocab"] = model["vocab"][:n_rows]
    if "merges" in model:
        model["merges"] = [one for one in model["merges"] if not lost.intersection(_parts(one))]
    text = json.dumps(data, ensure_ascii=False, indent=2)
    made = parsed(text, tokenizer.files[TEXT], why)
    tokens = made.get_vocab(with_added_tokens=True)
    return Tokenizer(
        tokenizer.files,
        dict(sorted(tokens.items(), key=lambda item: item[1])),
        {token: flags for token, flags in tokenizer.added.items() if token not in lost},
        text,
    )


def with_tokens(
    tokenizer: Tokenizer, tokens: Mapping[str, Mapping[str, Any]], why: str
) -> Tokenizer:
    """Return a tokenizer with these tokens behind its own.

    Args:
        tokenizer: The tokenizer.
        tokens: The flags of each new token, in the order of the numbers to be.
        why: The part of the request that wants them.
    """
    new = {token: flags for token, flags in tokens.items() if token not in tokenizer.tokens}
    if not new:
        return tokenizer
    made = parsed(tokenizer.text, tokenizer.files[TEXT], why)
    _add(made, new, why)
    found = made.get_vocab(with_added_tokens=True)
    return Tokenizer(
        tokenizer.files,
        dict(sorted(found.items(), key=lambda item: item[1])),
        {**tokenizer.added, **new},
        made.to_str(pretty=True),
    )


def plain() -> dict[str, Any]:
    """Return the flags of a token that is added by its text alone."""
    return dict.fromkeys(_FLAGS, False) | {"normalized": True}


def _special() -> dict[str, Any]:
    return dict.fromkeys(_FLAGS, False) | {"special": True}


def _complete(made: Any, config: Mapping[str, Any], special: Mapping[str, Any], why: str) -> bool:
    """Add the tokens that libraries add on loading; return True if there were any."""
    tokens = made.get_vocab(with_added_tokens=True)
    missing: dict[str, dict[str, Any]] = {}
    decoder = config.get("added_tokens_decoder")
    for _, one in sorted(_numbered(decoder)):
        if (token := _content(one)) is not None:
            missing[token] = _flags(one)
    for token in _named(config, special):
        missing.setdefault(token, _special())
    return _add(made, {t: flags for t, flags in missing.items() if t not in tokens}, why) > 0


def _add(made: Any, tokens: Mapping[str, Mapping[str, Any]], why: str) -> int:
    added = library(why).AddedToken
    n: int = made.add_tokens([added(token, **flags) for token, flags in tokens.items()])
    return n


def _numbered(decoder: object) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, one in decoder.items() if is_object(decoder) else ():
        if number.isdecimal() and len(number) <= _DIGITS and is_object(one):
            yield int(number), one


def _named(config: Mapping[str, Any], special: Mapping[str, Any]) -> Iterator[str]:
    """Yield the special tokens that a configuration names, in the order of libraries."""
    stated = config if "added_tokens_decoder" in config else {**special, **config}
    for key in NAMED:
        if (token := _content(stated.get(key))) is not None:
            yield token
    for key in _LISTED:
        listed = stated.get(key)
        values = list(listed.values()) if is_object(listed) else listed
        for one in values if isinstance(values, list) else ():
            if (token := _content(one)) is not None:
                yield token


def _content(value: object) -> str | None:
    text = value.get("content") if is_object(value) else value
    return text if isinstance(text, str) else None


def _flags(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: bool(value.get(name, default)) for name, default in plain().items()}


def _flags_of(token: Any) -> dict[str, Any]:
    return {name: getattr(token, name) for name in _FLAGS}


def _parts(merge: object) -> list[str]:
    """Return the two tokens of a merge, and the one that it makes of them."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    pair = [str(one) for one in parts] if isinstance(parts, list) else [show(merge)]
    return [*pair, "".join(pair)]


def _text(file: Path) -> str:
    return read_text(file).decode(errors="replace")


def _object(file: Path | None) -> dict[str, Any]:
    return {} if file is None else json_object(read_text(file), str(file))
