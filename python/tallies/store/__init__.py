"""Many experts in the space of one, and back: packing, opening, changing."""

from __future__ import annotations

from .counts import consensus
from .editing import add, choose, remove
from .opened import Store
from .packing.pack import pack
from .packing.report import PackReport
from .restoring.report import UnpackReport

__all__ = [
    "PackReport",
    "Store",
    "UnpackReport",
    "add",
    "choose",
    "consensus",
    "pack",
    "remove",
]
