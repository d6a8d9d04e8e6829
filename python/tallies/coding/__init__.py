"""Entropy coding of elements: independent frames of a well-kept library, by several threads."""

from __future__ import annotations

from .damaged import Damaged
from .fields import BLOCK, Fields
from .frames import Coded, decode, decode_blocks, encode, encode_blocks, groups, n_frames, places
from .library import zstandard
from .rooms import room
from .threads import in_order

__all__ = [
    "BLOCK",
    "Coded",
    "Damaged",
    "Fields",
    "decode",
    "decode_blocks",
    "encode",
    "encode_blocks",
    "groups",
    "in_order",
    "n_frames",
    "places",
    "room",
    "zstandard",
]
