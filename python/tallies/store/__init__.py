"""Many experts in the space of one, and back: packing, opening, changing."""

from .counting import consensus
from .editing import add, choose, remove
from .packing import pack
from .reading import Store
from .report import PackReport
from .unpacking import UnpackReport

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
