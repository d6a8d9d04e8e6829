"""The changes of one part of a tensor, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .._core import FoundChanges, StoredChanges
from .layout import LAYOUTS, LayoutWord

_NOTHING: Final = memoryview(b"")


@dataclass(frozen=True)
class PartChange:
    """The changes of one part, with exactly the bytes that they take; nothing if there are none."""

    layout: LayoutWord
    positions: memoryview = _NOTHING
    values: memoryview = _NOTHING
    blocks: memoryview = _NOTHING

    @classmethod
    def of(cls, found: FoundChanges) -> PartChange:
        """Return what a native pass has found."""
        buffers = (found.positions, found.values, found.blocks)
        return cls(LAYOUTS[found.layout], *(memoryview(one).cast("B") for one in buffers))

    def stored(self, coding: int, n_elements: int, unit: int) -> StoredChanges:
        """Return the changes as native passes take them.

        Args:
            coding: The native code of the values.
            n_elements: The elements of the part.
            unit: The bytes of an element.

        Raises:
            InputError: Positions, values and ends contradict each other.
        """
        return StoredChanges(
            layout=LAYOUTS.index(self.layout),
            coding=coding,
            n_elements=n_elements,
            unit=unit,
            positions=self.positions,
            values=self.values,
            blocks=self.blocks,
        )

    @property
    def n_bytes(self) -> int:
        """The bytes of all buffers."""
        return len(self.positions) + len(self.values) + len(self.blocks)
