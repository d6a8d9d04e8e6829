"""The library that reads and writes tokenizers, imported where a vocabulary changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError
from ..messages import show


def library(why: str) -> Any:
    """Return the module ``tokenizers``; InputError without it.

    Args:
        why: The part of the request that needs it.
    """
    try:
        import tokenizers
    except ImportError:
        raise InputError(
            f"{why}: needs the library that reads tokenizers; install it: pip install tokenizers, "
            "or pip install 'tallies[tokenizers]'"
        ) from None
    return tokenizers


def parsed(text: str, file: Path, why: str) -> Any:
    """Return the ``tokenizers.Tokenizer`` of a tokenizer.json.

    Args:
        text: The text of the file.
        file: The file, for messages.
        why: The part of the request that needs the tokenizer.

    Raises:
        InputError: The library is missing, or the text is no tokenizer.
    """
    module = library(why)
    try:
        return module.Tokenizer.from_str(text)
    except BaseException as error:  # the library raises nothing narrower, and panics
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        raise InputError(
            f"{file}: is no tokenizer that the library reads: {show(str(error))}; download it "
            "again, or save it anew with the library that made it"
        ) from None
