"""Writes what was found: entries into a directory, one file or memory, then the manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol

from ..checkpoint.files import copy_file
from ..checkpoint.occupied import PATCH, PATCH_NAME
from ..coding import Fields
from ..errors import StorageError
from ..spec.dtypes import DTYPES, size_of
from .frames import code, fields_of
from .growing import Entries, InBytes, InFile, longest_header
from .kept import KeptFile
from .layout import (
    Entry,
    PartEntries,
    blocks_entry,
    coded_entry,
    filled,
    frames_entry,
    frames_name,
    new_name,
    parts_of,
    positions_entry,
    values_entry,
    values_name,
)
from .manifest import Form, Manifest, Part, Stored
from .part_change import PartChange

_MOST_BYTES: Final = 5 * 10**9
"""The bytes of data after which another file begins."""


class Place(Protocol):
    """Takes the entries of a patch, and the manifest at the end."""

    stored: dict[str, Stored]

    def entries(self, n_bytes: int) -> Entries:
        """Return the entries to which the next one of ``n_bytes`` goes."""
        ...

    def name_of(self, entries: Entries) -> str:
        """Return the file of entries as the manifest names it."""
        ...

    def keep(self, one: KeptFile, source: Path) -> None:
        """Keep a small file."""
        ...

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, behind which nothing follows."""
        ...


class Writer:
    """Writes the entries of the parts of tensors.

    Args:
        place: Takes the entries.
        coder: The coder of entries of parts, ``none`` or ``zstd``.
        values: The kind of values.
        threads: The threads that code.
    """

    def __init__(
        self, place: Place, coder: str = "none", values: str = "new", threads: int = 1
    ) -> None:
        self._place = place
        self._coder, self._values, self._threads = coder, values, threads

    def add_part(self, tensor: str, dtype: str, number: int, n: int, change: PartChange) -> None:
        """Write the entries of a part.

        Args:
            tensor: The name of the tensor.
            dtype: Its dtype.
            number: The number of the part.
            n: The number of its elements.
            change: The changes in it.
        """
        names = PartEntries.of(tensor, number, change.layout)
        unit = DTYPES[dtype]
        if names.values is not None:
            entry = values_entry(names.values, unit, len(change.values))
            self._add(entry, change.values, unit, fields_of(self._values, dtype))
        if names.positions is not None:
            self._add(positions_entry(names.positions, len(change.positions)), change.positions, 1)
        if names.blocks is not None:
            self._add(blocks_entry(names.blocks, n), change.blocks, 4)

    def add_new(
        self,
        tensor: str,
        form: Form,
        pieces: Callable[[Callable[[bytes, int], object]], list[int]],
    ) -> tuple[list[int], list[Part]]:
        """Write a whole tensor, whose bytes ``pieces`` hands over.

        Returns:
            Its content fingerprint, which ``pieces`` returns; and its parts where it is coded.
        """
        if self._coder != "none" and size_of(*form):
            return self._add_coded(tensor, form, pieces)
        n_bytes = size_of(*form)
        entries = self._place.entries(n_bytes)
        name = new_name(tensor)
        lanes = entries.add_pieces((name, *form), n_bytes, pieces)
        self._note(entries, name)
        return lanes, []

    def _add_coded(
        self,
        tensor: str,
        form: Form,
        pieces: Callable[[Callable[[bytes, int], object]], list[int]],
    ) -> tuple[list[int], list[Part]]:
        unit = DTYPES[form[0]]
        parts = [
            Part(first=first, n_elements=n, layout="dense", n_changed=n)
            for first, n in parts_of(*form)
        ]
        held, done = bytearray(), 0

        def write(data: bytes, at: int) -> None:
            nonlocal held, done
            held += data
            while done < len(parts) and len(held) >= parts[done].n_elements * unit:
                n_bytes = parts[done].n_elements * unit
                own, held = memoryview(bytes(held[:n_bytes])), held[n_bytes:]
                entry = values_entry(values_name(tensor, done), unit, n_bytes)
                self._add(entry, own, unit, fields_of("new", form[0]))
                done += 1

        return pieces(write), parts

    def _add(
        self, entry: Entry, data: memoryview, unit: int, fields: Fields = Fields.BYTES
    ) -> None:
        if self._coder == "none":
            self._write(entry, data)
            return
        coded = code(data, unit, fields, self._threads)
        self._write(coded_entry(entry[0], len(coded.frames)), memoryview(coded.frames))
        sizes = memoryview(coded.sizes).cast("B")
        self._write(frames_entry(frames_name(entry[0]), len(coded.sizes)), sizes)

    def _write(self, entry: Entry, data: memoryview) -> None:
        entries = self._place.entries(filled(len(data)))
        entries.add(entry, data, filled(len(data)) - len(data))
        self._note(entries, entry[0])

    def _note(self, entries: Entries, name: str) -> None:
        file, fingerprint = self._place.name_of(entries), entries.checksums[name]
        self._place.stored[name] = Stored(file=file, fingerprint=fingerprint)


class InDirectory:
    """A patch that is a directory.

    Args:
        directory: The directory, which exists.
        names: The entries that there may be.
    """

    def __init__(self, directory: Path, names: Iterable[str]) -> None:
        self._directory = directory
        self._room = longest_header(names)
        self._file: InFile | None = None
        self.files: dict[str, int] = {}
        """The files and their bytes."""
        self.stored: dict[str, Stored] = {}

    def entries(self, n_bytes: int) -> Entries:
        """Return the entries to which the next one of ``n_bytes`` goes."""
        if self._file is not None and self._file.n_bytes + n_bytes > _MOST_BYTES:
            self._close()
        if self._file is None:
            name = f"changes-{len(self.files) + 1:05d}.safetensors"
            self._file = InFile(self._directory / name, self._room)
            self.files[name] = 0
        return self._file

    def name_of(self, entries: Entries) -> str:
        """Return the file of entries as the manifest names it."""
        assert isinstance(entries, InFile)
        return entries.path.name

    def keep(self, one: KeptFile, source: Path) -> None:
        """Keep a small file."""
        copy_file(source, self._directory / one.place)

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, behind which nothing follows."""
        if self._file is not None:
            self._close()
        text = manifest.to_json(indent=1) + "\n"
        try:
            (self._directory / PATCH_NAME).write_text(text, encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"{self._directory / PATCH_NAME}: cannot be written: {error.strerror}"
            ) from None
        self.files[PATCH_NAME] = len(text.encode())

    def close(self) -> None:
        """Let go of the file in hand, wherever it ends."""
        if self._file is not None:
            self._file.close()

    def _close(self) -> None:
        assert self._file is not None
        self.files[self._file.path.name] = self._file.finish({})
        self._file = None


class InOne:
    """A patch that is one file, or bytes.

    Args:
        entries: Takes the entries.
    """

    def __init__(self, entries: InFile | InBytes) -> None:
        self._entries = entries
        self.stored: dict[str, Stored] = {}
        self.files: dict[str, int] = {}
        self.data: bytes | None = None
        """The bytes of a patch that is no file."""

    def entries(self, n_bytes: int) -> Entries:
        """Return the entries to which the next one of ``n_bytes`` goes."""
        return self._entries

    def name_of(self, entries: Entries) -> str:
        """Return the file of entries as the manifest names it: not at all."""
        return ""

    def keep(self, one: KeptFile, source: Path) -> None:
        """Keep a small file."""
        try:
            data = source.read_bytes()
        except OSError as error:
            raise StorageError(f"{source}: cannot be read: {error.strerror}") from None
        name = one.entry
        self._entries.add((name, "U8", (len(data),)), memoryview(data))
        self.stored[name] = Stored(file="", fingerprint=self._entries.checksums[name])

    def close(self) -> None:
        """Let go of the file in hand, wherever it ends."""
        if isinstance(self._entries, InFile):
            self._entries.close()

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, behind which nothing follows."""
        metadata = {PATCH: manifest.to_json()}
        if isinstance(self._entries, InFile):
            self.files[self._entries.path.name] = self._entries.finish(metadata)
        else:
            self.data = self._entries.finish(metadata)


def metadata_room(manifest: Manifest) -> int:
    """Return the bytes that a manifest takes in a header, and all with shorter texts as well."""
    return len(json.dumps({"__metadata__": {PATCH: manifest.to_json()}}).encode()) + 64


def longest_entries(
    parts: Mapping[str, int], whole: Mapping[str, int], small: Iterable[str]
) -> list[str]:
    """Return the names of all entries that a patch may have, coded or not.

    Args:
        parts: The number of parts of each tensor that is compared.
        whole: The number of parts of each tensor that is stored whole.
        small: The entries of the small files.
    """
    found = []
    for name, n_parts in parts.items():
        names = [one for n in range(n_parts) for one in PartEntries.of(name, n, "gaps").names]
        found += names
        found += map(frames_name, names)
    for name, n_parts in whole.items():
        names = [values_name(name, n) for n in range(n_parts)]
        found += [new_name(name), *names, *map(frames_name, names)]
    return [*found, *small]
