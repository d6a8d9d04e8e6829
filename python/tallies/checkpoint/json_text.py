"""JSON that strangers wrote: read in bounded size, with integers that cannot overflow."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Final, NoReturn, TypeGuard

from ..errors import InputError, StorageError
from ..messages import show
from .pointers import refuse_pointer

MAX_HEADER_BYTES: Final = 100_000_000
"""The longest header that the stock library reads; our bound on index and config.json as well."""

MAX_WIDE_BYTES: Final = MAX_HEADER_BYTES // 2
"""The longest text with characters beyond U+FFFF, one of which quadruples the memory of all."""

MAX_TENSORS: Final = 1 << 18
"""The most tensors of a file; published ones have fewer than a tenth of it."""

_SIGNS: Final = 16
"""Commas, colons and opening brackets of one tensor and its metadata, at most."""

_MAX_DIGITS: Final = 18  # 10**18 < 2**63: an integer this short fits every counter downstream

_WIDE: Final = re.compile(rb"[\xf0-\xf4]|\\u[dD][89a-fA-F]")

_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
"""The escape of half a pair, alone or with its other half."""

DAMAGED: Final = "the file is damaged: copy or download it again"


def read_text(path: Path) -> bytes:
    """Return the bytes of a file of JSON; InputError for one that is too long."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_HEADER_BYTES + 1)
    except OSError as error:
        refuse_unreadable(error, path)
    if len(text) > MAX_HEADER_BYTES:
        raise InputError(f"{path}: expected JSON of at most {MAX_HEADER_BYTES} bytes; {DAMAGED}")
    refuse_pointer(path, text[:64])
    return text


def json_object(text: bytes, where: str, *, unique_keys: bool = False) -> dict[str, Any]:
    """Parse a JSON object; InputError that begins with ``where`` for any other text."""
    value = json_value(text, where, unique_keys=unique_keys)
    if not is_object(value):
        raise InputError(f"{where}: found {show(value)}, expected a JSON object; {DAMAGED}")
    return value


def refuse_crowded(text: bytes, where: str) -> None:
    """Refuse a header or index of more values than there may be tensors, before it is parsed."""
    if sum(text.count(sign) for sign in (b",", b":", b"[", b"{")) > _SIGNS * MAX_TENSORS:
        raise InputError(
            f"{where}: has far more values than {MAX_TENSORS} tensors, the most of a file; write "
            "the model in several files"
        )


def json_value(text: bytes, where: str, *, unique_keys: bool = False) -> object:
    """Parse JSON; InputError that begins with ``where`` for any other text."""
    if len(text) > MAX_WIDE_BYTES and _WIDE.search(text):
        raise InputError(
            f"{where}: {len(text)} bytes with characters beyond U+FFFF, such as emoji, expected "
            f"at most {MAX_WIDE_BYTES} with such; take them out of the file's texts"
        )
    hook = _unique if unique_keys else None
    try:
        value: object = json.loads(text.decode(), object_pairs_hook=hook, parse_int=_integer)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 from byte {error.start} on; {DAMAGED}") from None
    except RecursionError:
        raise InputError(f"{where}: JSON nested beyond all sense; {DAMAGED}") from None
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON: {error}; {DAMAGED}") from None
    # Headers and indices, whose keys are unique, have readers that refuse such texts themselves.
    if not unique_keys and _SURROGATE.search(text):
        _refuse_surrogates(value, where)
    return value


def _refuse_surrogates(value: object, where: str) -> None:
    """Raise InputError for a text with half a pair of UTF-16, which no file or terminal takes."""
    left: list[tuple[str, object]] = [("", value)]
    while left:
        name, one = left.pop()
        if isinstance(one, dict):
            left += [("a key", key) for key in one]
            left += [(_below(name, key), below) for key, below in one.items()]
        elif isinstance(one, list):
            left += [(name, below) for below in one]
        elif isinstance(one, str) and any("\ud800" <= sign <= "\udfff" for sign in one):
            found = f"{name} is {show(one)}" if name else show(one)
            raise InputError(
                f"{where}: {found}, which has half a character (a lone surrogate); correct it, or "
                "download the file again"
            )


def _below(name: str, key: str) -> str:
    """Return the name of a value in an object: ``weight_map['a']``."""
    if name:
        return f"{name}[{show(key)}]"
    return key if key.isprintable() else show(key)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of pairs; a key given twice has no meaning that all readers share."""
    unique = dict(pairs)
    if len(unique) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {show(key)} appears twice")
    return unique


def _integer(digits: str) -> int | float:
    """Parse an integer; ``-0`` and integers out of range are floats, as in the stock library."""
    return int(digits) if len(digits) <= _MAX_DIGITS and digits != "-0" else float(digits)


def object_checksum(data: Mapping[str, Any]) -> str:
    """Return sixteen hexadecimal digits over the content of an object, whatever its layout."""
    text = json.dumps(data, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Return whether a JSON value is an object."""
    return isinstance(value, dict)


def is_texts(value: object) -> TypeGuard[dict[str, str]]:
    """Return whether a JSON value is an object of strings, all of them encodable."""
    if not isinstance(value, dict):
        return False
    try:
        for text in chain(value, value.values()):
            str.encode(text)
    except (TypeError, UnicodeEncodeError):  # another value than a text, or half a character
        return False
    return True


def refuse_unreadable(error: OSError, path: Path | None = None) -> NoReturn:
    """Raise InputError for a file that is not there, else StorageError."""
    file = path or error.filename
    if isinstance(error, FileNotFoundError):
        raise InputError(f"{file}: no such file; copy or download it again") from None
    raise StorageError(f"{file}: cannot be read: {error.strerror}") from None
