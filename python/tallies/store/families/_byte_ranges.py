"""Ranges of bytes of stored tensors, read by several threads."""

from __future__ import annotations

import os
import threading
from typing import Any

from ...checkpoint.tensors import TensorInfo
from ...engine.copies import CopiesInOrder
from ...errors import StorageError


class ByteRanges:
    """Open files, from which ranges of the bytes of tensors are read by position.

    A tensor whose elements do not lie end to end is first put in order, in a file without a name.
    """

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._copies = CopiesInOrder()
        self._lock = threading.Lock()

    def read(self, tensor: TensorInfo, first: int, n_bytes: int) -> bytearray:
        """Return bytes of a tensor from byte ``first`` of its elements in order on.

        Raises:
            StorageError: The file cannot be read, or ends within the range.
        """
        with self._lock:
            file, offset = self._place(tensor)
        data = bytearray(n_bytes)
        view = memoryview(data)
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
