"""Turns stored tensors into the places that native passes read and write."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable

from .._core import Plan
from ..checkpoint.data import chunks
from ..checkpoint.tensors import TensorInfo
from ..errors import StorageError
from ..spec.dtypes import DTYPE_CODES

Place = tuple[int, int, int]
"""Where an array lies: file number and byte offset, or -1 and address; and its dtype's code."""


class Inputs:
    """The files that a plan reads, each opened once, and the places of tensors in these files.

    A tensor whose elements do not lie end to end is first copied, in order, into a file without a
    name in the system's temporary directory (``TMPDIR``), which goes with this object.
    """

    def __init__(self, core: Plan, paths: Iterable[str | os.PathLike[str]] = ()) -> None:
        self._core = core
        self._numbers: dict[str, int] = {}
        self._copies = -1
        """The descriptor of the file of copies."""
        self._copied: dict[TensorInfo, int] = {}
        """Where the copy of a tensor begins."""
        for path in paths:
            self._open(os.fspath(path))

    def place(self, tensor: TensorInfo, code: int | None = None) -> Place:
        """Say where a tensor lies; ``code`` stands for another dtype of the same size in bits."""
        if code is None:
            code = DTYPE_CODES[tensor.dtype]
        if tensor.strides is None:
            return (self._open(os.fspath(tensor.path)), tensor.offset, code)
        if self._copies < 0:
            self._copies = _temporary_file()
            weakref.finalize(self, os.close, self._copies)
        if tensor not in self._copied:
            self._copied[tensor] = _append(self._copies, tensor)
        # By the system's name for an open file: the copies have no name of their own.
        return (self._open(f"/proc/self/fd/{self._copies}"), self._copied[tensor], code)

    def open_again(self, core: Plan) -> Plan:
        """Open the same files in another plan, where they get the same numbers; return the plan."""
        for path in self._numbers:
            core.open_to_read(path)
        return core

    def _open(self, path: str) -> int:
        if path not in self._numbers:
            self._numbers[path] = self._core.open_to_read(path)
        return self._numbers[path]


def _temporary_file() -> int:
    try:
        file, path = tempfile.mkstemp(prefix="tallies-")
        os.unlink(path)
        return file
    except OSError as error:
        raise StorageError(f"{tempfile.gettempdir()}: {error.strerror}; set TMPDIR") from None


def _append(copies: int, tensor: TensorInfo) -> int:
    """Write a tensor's elements end to end behind those that are there; where they begin."""
    begin = os.lseek(copies, 0, os.SEEK_END)
    try:
        for chunk in chunks(tensor):
            view = memoryview(chunk)
            while view:
                view = view[os.write(copies, view) :]
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{tempfile.gettempdir()}: tensor {tensor.name!r} of {tensor.path} cannot be put in "
            f"order there: {error.strerror}; free some space, or set TMPDIR"
        ) from None
    return begin


class Writer:
    """Writes the bytes of one tensor to its place in an output file."""

    def __init__(self, core: Plan, file: int, offset: int) -> None:
        self._core = core
        self._file = file
        self._offset = offset

    def __call__(self, data: bytes, at: int) -> None:
        self._core.write(self._file, data, self._offset + at)
