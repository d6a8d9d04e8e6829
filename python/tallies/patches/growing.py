"""Safetensors files whose entries are written as they are found, and the header at the end."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from ..engine.fingerprints import add_content, content_of, tensor_fingerprint
from ..errors import StorageError
from .content import content_in_place
from .layout import Entry

_HEAD_ALIGNMENT: Final = 64
_NUMBER: Final = 20
"""Digits of the longest number in a header."""


def longest_header(names: Iterable[str]) -> int:
    """Return bytes that hold the entries of a header with these names, whatever their sizes."""
    beside = len('"":{"dtype":"BF16","shape":[,],"data_offsets":[,]},') + 8 + 4 * _NUMBER
    return sum(len(json.dumps(name, ensure_ascii=False).encode()) + beside for name in names)


class Entries(ABC):
    """Entries that lie end to end, and the checksum of each."""

    def __init__(self) -> None:
        self.begins: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        """By name the dtype, the shape, the first byte and the end, from the data's start."""
        self.checksums: dict[str, str] = {}
        self.n_bytes = 0

    def add(self, entry: Entry, data: memoryview, fill: int = 0) -> None:
        """Append an entry of these bytes and ``fill`` zeros."""
        lanes = content_in_place(data)  # fewer zeros than fill the last stripe change nothing
        self._begin(entry, len(data) + fill)
        self._write(data)
        if fill:
            self._write(memoryview(bytes(fill)))
        self._end(entry, lanes)

    def add_pieces(
        self, entry: Entry, n_bytes: int, pieces: Callable[[Callable[[bytes, int], object]], object]
    ) -> list[int]:
        """Append an entry of ``n_bytes``, which ``pieces`` hands over; return its fingerprint."""
        lanes = [0] * 8

        def write(data: bytes, at: int) -> None:
            add_content(lanes, content_of(data, at))
            self._write(memoryview(data))

        self._begin(entry, n_bytes)
        pieces(write)
        self._end(entry, lanes)
        return lanes

    def _begin(self, entry: Entry, n_bytes: int) -> None:
        name, dtype, shape = entry
        self.begins[name] = (dtype, shape, self.n_bytes, self.n_bytes + n_bytes)
        self.n_bytes += n_bytes

    def _end(self, entry: Entry, lanes: list[int]) -> None:
        self.checksums[entry[0]] = tensor_fingerprint(Form(*entry[1:]), lanes)

    @abstractmethod
    def _write(self, data: memoryview) -> None:
        """Append bytes."""

    def header(self, metadata: Mapping[str, str], reserved: int = 0) -> bytes:
        """Return the first bytes of a file of these entries, ``reserved`` of them at least."""
        head: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        for name, (dtype, shape, begin, end) in self.begins.items():
            head[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
        size = max(-(-(8 + len(text)) // _HEAD_ALIGNMENT) * _HEAD_ALIGNMENT, reserved)
        return (size - 8).to_bytes(8, "little") + text.ljust(size - 8)


class Form:
    """The dtype and the shape of an entry, as its fingerprint takes them."""

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        self.dtype, self.shape = dtype, shape


class InBytes(Entries):
    """Entries in memory, with a header that takes no more than it needs."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def _write(self, data: memoryview) -> None:
        self._pieces.append(bytes(data))

    def finish(self, metadata: Mapping[str, str]) -> bytes:
        """Return the bytes of the file."""
        return b"".join([self.header(metadata), *self._pieces])


class InFile(Entries):
    """Entries of a file, before which room is kept for the header.

    Args:
        path: The file, which is created.
        room: The bytes of the longest header.

    Raises:
        StorageError: The file cannot be written; so from all methods.
    """

    def __init__(self, path: Path, room: int) -> None:
        super().__init__()
        self.path = path
        self._room = -(-(8 + room) // _HEAD_ALIGNMENT) * _HEAD_ALIGNMENT
        self._at = self._room
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._failed(error) from None

    def _write(self, data: memoryview) -> None:
        self._at = self._write_at(data, self._at)

    def _write_at(self, data: memoryview, at: int) -> int:
        try:
            while data:
                n = os.pwrite(self._file, data, at)
                data, at = data[n:], at + n
        except OSError as error:
            raise self._failed(error) from None
        return at

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(f"{self.path}: cannot be written: {error.strerror or error}")

    @property
    def size(self) -> int:
        """The bytes of the file so far, room for the header included."""
        return self._at

    def finish(self, metadata: Mapping[str, str], *, sync: bool = False) -> int:
        """Write the header and close the file; return its bytes."""
        head = self.header(metadata, self._room)
        assert len(head) == self._room, "the longest header was not the longest"
        try:
            self._write_at(memoryview(head), 0)
            if sync:
                os.fsync(self._file)
        except OSError as error:
            raise self._failed(error) from None
        finally:
            self.close()
        return self._at

    def close(self) -> None:
        """Close the file; it stays as it is."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
