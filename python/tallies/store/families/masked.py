"""The files of codecs that keep a bit mask per task."""

from __future__ import annotations

from typing import Final

GRAIN: Final = 2048
"""Tiles start on multiples of it: sums fold over so many elements, whatever the tiles are."""


def scale_name(name: str) -> str:
    """Under which name a task's file has the magnitude of a matrix of signs."""
    return f"{name}::scale"
