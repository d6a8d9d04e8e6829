"""The new values of a run in place, beside the old ones: by both a half-written model is known."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import numpy as np

from ..errors import InputError, StorageError
from .content import content_in_place

_SUMS: Final = struct.Struct("<8Q")


class NewValues:
    """A file of runs of bytes, each with its checksum behind it, written and read in one order.

    Args:
        path: The file.
        mode: ``wb`` to write it, ``rb`` to read it.

    Raises:
        InputError: There is none to read.
        StorageError: The file cannot be opened; so from all methods, if it cannot be used.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self._path = path
        try:
            self._file = open(path, mode)  # noqa: SIM115
        except FileNotFoundError:
            raise InputError(f"{path}: is missing") from None
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror or error}") from None

    def write(self, data: memoryview) -> None:
        """Append a run."""
        try:
            self._file.write(data)
            self._file.write(_SUMS.pack(*content_in_place(data)))
        except OSError as error:
            raise StorageError(
                f"{self._path}: cannot be written: {error.strerror or error}"
            ) from None

    def read(self, n_bytes: int) -> bytes:
        """Return the next run, of so many bytes; InputError if it is damaged."""
        try:
            data: bytes = self._file.read(n_bytes)
            sums = self._file.read(_SUMS.size)
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be read: {error.strerror or error}") from None
        if len(data) < n_bytes or sums != _SUMS.pack(*content_in_place(data)):
            raise InputError(f"{self._path}: is damaged before byte {self._file.tell()}")
        return data

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:
            raise StorageError(
                f"{self._path}: cannot be written: {error.strerror or error}"
            ) from None


def are_of_either(found: object, old: object, new: object) -> bool:
    """Return whether every byte is the old one or the new one.

    Bytes, not elements: a write that ends early may end within an element.
    """
    now, before, after = (np.frombuffer(one, np.uint8) for one in (found, old, new))  # type: ignore[call-overload]
    return bool(np.all((now == before) | (now == after)))
