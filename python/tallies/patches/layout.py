"""The layout of a patch: parts of tensors, and the entries that hold what changed in each.

Pure functions, which ``docs/patches.md`` states in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from ..spec.dtypes import DTYPES, n_stored

PART_BYTES: Final = 1 << 25
"""The bytes of a tensor that a part covers at most: reading and making take a few times that."""

BLOCK: Final = 1 << 16
"""Elements of a part that are decoded without the others."""

ALIGNMENT: Final = 8
"""Entries are filled up to a multiple of this many bytes, so that each is aligned."""

LayoutWord: TypeAlias = Literal["none", "gaps", "mask", "dense"]

LAYOUTS: Final[tuple[LayoutWord, ...]] = ("none", "gaps", "mask", "dense")
"""The layouts of a part, in the order of the native codes."""

VALUES: Final = ("xor", "difference", "new")
"""The kinds of values, in the order of the native codes."""

Entry: TypeAlias = tuple[str, str, tuple[int, ...]]
"""A stored tensor: its name, its dtype and its shape."""

_OF_UNIT: Final = {1: "U8", 2: "U16", 4: "U32", 8: "U64"}
_OF_BLOCKS: Final = "U32"


def parts_of(dtype: str, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the first element and the number of elements of each part of a tensor.

    >>> parts_of("BF16", (2**24 + 1,))
    [(0, 16777216), (16777216, 1)]
    """
    n, most = n_stored(dtype, shape), PART_BYTES // DTYPES[dtype]
    return [(first, min(most, n - first)) for first in range(0, n, most)]


def n_parts(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the number of parts of a tensor, of any shape, without listing them."""
    return -(-n_stored(dtype, shape) // (PART_BYTES // DTYPES[dtype]))


def n_blocks(n: int) -> int:
    """Return the blocks of a part of ``n`` elements."""
    return -(-n // BLOCK)


def most_positions(layout: str, n: int, n_changed: int) -> int:
    """Return the most bytes that say which ``n_changed`` of ``n`` elements changed."""
    return -(-n // 8) if layout == "mask" else n_changed + n_blocks(n) * (BLOCK // 255)


def positions_name(tensor: str, part: int) -> str:
    """Return the name of the entry that says which elements of a part changed."""
    return f"{tensor}::{part}.positions"


def values_name(tensor: str, part: int) -> str:
    """Return the name of the entry of a part's values."""
    return f"{tensor}::{part}.values"


def blocks_name(tensor: str, part: int) -> str:
    """Return the name of the entry that says where the blocks of a part end."""
    return f"{tensor}::{part}.blocks"


def new_name(tensor: str) -> str:
    """Return the name of the entry of a whole new tensor."""
    return f"{tensor}::new"


def frames_name(entry: str) -> str:
    """Return the name of the entry of the sizes of a coded entry's frames."""
    return f"{entry}.frames"


def filled(n_bytes: int) -> int:
    """Return the bytes of an entry with the zeros that fill it.

    >>> filled(0), filled(1), filled(8)
    (0, 8, 8)
    """
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class PartEntries:
    """The names of the entries of a part; None for those that its layout lacks."""

    values: str | None = None
    positions: str | None = None
    blocks: str | None = None

    @classmethod
    def of(cls, tensor: str, part: int, layout: str) -> PartEntries:
        """Return the names of the entries of part number ``part`` of a tensor."""
        if layout == "none":
            return cls()
        if layout == "dense":
            return cls(values_name(tensor, part))
        return cls(
            values_name(tensor, part), positions_name(tensor, part), blocks_name(tensor, part)
        )

    @property
    def names(self) -> list[str]:
        """The names that there are, in the order in which they are written."""
        return [one for one in (self.values, self.positions, self.blocks) if one is not None]


def values_entry(name: str, unit: int, n_bytes: int) -> Entry:
    """Return the entry of values that take ``n_bytes``, each of ``unit`` bytes."""
    return (name, _OF_UNIT[unit], (filled(n_bytes) // unit,))


def positions_entry(name: str, n_bytes: int) -> Entry:
    """Return the entry of positions that take ``n_bytes``."""
    return (name, _OF_UNIT[1], (filled(n_bytes),))


def blocks_entry(name: str, n: int) -> Entry:
    """Return the entry of the ends of the blocks of a part of ``n`` elements."""
    return (name, _OF_BLOCKS, (n_blocks(n), 2))


def coded_entry(name: str, n_bytes: int) -> Entry:
    """Return the entry of frames that take ``n_bytes``."""
    return (name, _OF_UNIT[1], (filled(n_bytes),))


def frames_entry(name: str, n_frames: int) -> Entry:
    """Return the entry of the sizes of frames, an even number of which is written."""
    return (name, _OF_BLOCKS, (n_frames + n_frames % 2,))
