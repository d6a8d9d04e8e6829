"""The error of data that no encoder made."""

from __future__ import annotations


class Damaged(ValueError):
    """Frames are not what ``encode`` makes: cut off, of another size than stated, or no frames.

    The text says what was found and what was expected; who has the file adds its name.
    """
