"""Turns stored tensors into the places that native passes read and write."""

from __future__ import annotations

from .._core import Plan


class Writer:
    """Writes the bytes of one tensor to its place in an output file."""

    def __init__(self, core: Plan, file: int, offset: int) -> None:
        self._core = core
        self._file = file
        self._offset = offset

    def __call__(self, data: bytes, at: int) -> None:
        self._core.write(self._file, data, self._offset + at)


Place = tuple[int, int, int]
"""Where an array lies: file number and byte offset, or -1 and address; and its dtype's code."""
