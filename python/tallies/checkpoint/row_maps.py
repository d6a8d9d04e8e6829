"""State where the rows of an embedding come from when a vocabulary changes."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RowMap:
    """The rows of a tensor that stands for another one with other rows.

    Row i is row ``own[i]`` of the tensor itself. A row with ``own[i] < 0`` is the mean of the rows
    in ``means[i]``, summed in their order in float32 and divided by their number; without an entry
    there it is zero. The rows from ``len(own)`` on are the mean of all rows before.
    """

    own: array[int]
    """Typecode ``q``: one number a token."""
    means: Mapping[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    """By row, pairs of the number of a model (0 is the first of the merge) and a row in it."""
    n_padding: int = 0
    """Rows behind those of the tokens."""

    @property
    def n_rows(self) -> int:
        """The rows of the tensor that results."""
        return len(self.own) + self.n_padding
