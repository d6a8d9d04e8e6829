"""Copies of tensors whose elements do not lie end to end, for passes that read by position."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator

from ..checkpoint.data import chunks
from ..checkpoint.tensors import TensorInfo
from ..errors import StorageError


class CopiesInOrder:
    """A file without a name, in the system's temporary directory, of strided tensors in order.

    The memory that a copy takes is bounded; the room on disk is that of the strided tensors. The
    file goes with this object, or with the process.
    """

    def __init__(self) -> None:
        self._file = -1
        self._begins: dict[tuple[TensorInfo, bool], int] = {}

    def find(self, tensor: TensorInfo) -> tuple[str, int]:
        """Return the path of the file and the byte where the copy of a tensor begins.

        Raises:
            StorageError: If the tensor cannot be read or the copy cannot be written.
        """
        return self._find(tensor, False, chunks(tensor))

    def find_decoded(self, tensor: TensorInfo, values: Iterator[bytearray]) -> tuple[str, int]:
        """Return the same for a copy of the decoded values of a tensor.

        Args:
            tensor: The tensor.
            values: Yields the bytes of the values; is read if there is no copy yet.

        Raises:
            StorageError: If the tensor cannot be read or the copy cannot be written.
        """
        return self._find(tensor, True, values)

    def _find(
        self, tensor: TensorInfo, is_decoded: bool, values: Iterator[bytearray]
    ) -> tuple[str, int]:
        if self._file < 0:
            self._file = _temporary_file()
            weakref.finalize(self, os.close, self._file)
        key = (tensor, is_decoded)
        if key not in self._begins:
            self._begins[key] = _append(self._file, tensor, values)
        # By the system's name for an open file: the file has no name of its own.
        return f"/proc/self/fd/{self._file}", self._begins[key]


def _temporary_file() -> int:
    try:
        file, path = tempfile.mkstemp(prefix="tallies-")
        os.unlink(path)
    except OSError as error:
        raise StorageError(f"{tempfile.gettempdir()}: {error.strerror}; set TMPDIR") from None
    return file


def _append(file: int, tensor: TensorInfo, values: Iterator[bytearray]) -> int:
    """Write a tensor's elements behind those that are there, and return where they begin."""
    begin = os.lseek(file, 0, os.SEEK_END)
    try:
        for chunk in values:
            view = memoryview(chunk)
            while view:
                view = view[os.write(file, view) :]
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{tempfile.gettempdir()}: tensor {tensor.name!r} of {tensor.path} cannot be put in "
            f"order there: {error.strerror}; free some space, or set TMPDIR"
        ) from None
    return begin
