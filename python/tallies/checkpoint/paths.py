"""Texts of strangers that are to become paths."""

from __future__ import annotations

import os


def is_possible(text: str) -> bool:
    """Return whether a file system can take a text as a path, whatever is there."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
