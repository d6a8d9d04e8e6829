"""Ranges of bytes of stored tensors and of outputs, read and written by several threads."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any, Final

from ..._core import Limits
from ...checkpoint.tensors import TensorInfo
from ...coding import room
from ...engine.copies import CopiesInOrder
from ...engine.files import Place, PlanFiles
from ...errors import StorageError

_WORKER_BYTES: Final = 1 << 24
"""Memory that a thread takes for a group of blocks: elements, planes, and frames that wait."""
_SHARE: Final = 8
"""The buffer of a pass is this part of what a thread may take."""


def n_workers(limits: Limits) -> int:
    """Return the number of threads that have room in a memory budget, at least one."""
    room = _SHARE * limits.buffer_bytes * limits.n_threads
    return min(limits.n_threads, max(room // _WORKER_BYTES, 1))


class ByteRanges:
    """Open files, from which ranges of the bytes of tensors are read by position.

    A tensor whose elements do not lie end to end is first put in order, in a file without a name.
    """

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._copies = CopiesInOrder()
        self._lock = threading.Lock()

    def read(self, tensor: TensorInfo, first: int, n_bytes: int, use: str) -> memoryview:
        """Return bytes of a tensor from byte ``first`` of its elements in order on.

        Args:
            tensor: The tensor.
            first: The first byte.
            n_bytes: The number of bytes.
            use: The memory of the calling thread for them, which the next call with it overwrites.

        Raises:
            StorageError: The file cannot be read, or ends within the range.
        """
        with self._lock:
            file, offset = self._place(tensor)
        data = view = room(use, n_bytes)
        at = offset + first
        while view:
            try:
                n = os.preadv(file, [view], at)
            except OSError as error:
                raise StorageError(f"{tensor.path}: cannot be read: {error.strerror}") from None
            if not n:
                raise StorageError(
                    f"{tensor.path}: tensor {tensor.name!r} ends early; the file was truncated "
                    "while being read"
                )
            view, at = view[n:], at + n
        return data

    def _place(self, tensor: TensorInfo) -> tuple[int, int]:
        path, offset = os.fspath(tensor.path), tensor.offset
        if tensor.strides is not None:
            path, offset = self._copies.find(tensor)
        if path not in self._files:
            try:
                self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise StorageError(f"{path}: cannot be read: {error.strerror}") from None
        return self._files[path], offset

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def __enter__(self) -> ByteRanges:
        """Return the ranges themselves."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Close all files."""
        self.close()


class Outputs:
    """The places of restored tensors, in memory and in the files of a plan."""

    def __init__(self, files: PlanFiles) -> None:
        self._plan_files = files
        self._files: dict[int, int] = {}
        self._lock = threading.Lock()

    def write(self, place: Place, at: int, data: memoryview) -> None:
        """Write bytes of a tensor from its byte ``at`` on.

        Raises:
            StorageError: The file cannot be written.
        """
        number, offset, _ = place
        if number < 0:
            ctypes.memmove(offset + at, (ctypes.c_char * len(data)).from_buffer(data), len(data))
            return
        path = self._plan_files.path_of(number)
        try:
            with self._lock:
                if number not in self._files:
                    self._files[number] = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            to = offset + at
            while data:
                n = os.pwrite(self._files[number], data, to)
                data, to = data[n:], to + n
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from None

    def __enter__(self) -> Outputs:
        """Return the outputs themselves."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Close all files."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()
