"""Opens patches: directories, single files and bytes, all read and checked alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ..checkpoint.data import whole
from ..checkpoint.json_text import json_object, read_text
from ..checkpoint.occupied import PATCH, PATCH_NAME
from ..checkpoint.safetensors import read_header
from ..checkpoint.tensors import TensorInfo
from ..checkpoint.weight_names import SAFETENSORS
from ..coding import Damaged, Fields
from ..engine.fingerprints import tensor_fingerprint
from ..errors import InputError, StorageError, TalliesError
from ..messages import show
from ..recipe.places import Places
from ..spec.dtypes import DTYPES
from .content import content_in_place
from .frames import decoded, fields_of
from .held import file_in_memory, file_without_name
from .kept import KeptFile, checksum
from .layout import (
    PartEntries,
    blocks_entry,
    filled,
    frames_name,
    most_positions,
    n_blocks,
    new_name,
)
from .manifest import Manifest, Part, TensorChange
from .part_change import PartChange

_AGAIN: Final = "copy or make the patch again"


@dataclass(frozen=True, eq=False, repr=False)
class Patch:
    """An open patch: ``Patch.open("patch").manifest.tensors`` says what changed.

    Everything that is read is compared with its checksum.
    """

    label: str
    """The patch in messages: its path, or a number for bytes."""
    path: Path
    manifest: Manifest
    entries: Mapping[str, TensorInfo]
    n_bytes: int
    """The bytes of all its files."""
    memory: Mapping[Path, memoryview] = field(default_factory=dict)
    """The bytes of files by their paths, to read where they lie."""

    def __repr__(self) -> str:
        return f"<Patch {self.label!r} from {self.manifest.old} to {self.manifest.new}>"

    @classmethod
    def open(cls, source: object, label: str = "patch") -> Patch:
        """Open a patch and check its manifest and headers; no other data are read.

        Args:
            source: A directory, a ``.safetensors`` file, or the bytes of a file.
            label: The name of bytes in messages.

        Raises:
            InputError: There is no patch, or it is damaged.
            StorageError: A file cannot be read.
        """
        if isinstance(source, Patch):
            return source
        if isinstance(source, (bytes, bytearray, memoryview)):
            return _open_bytes(bytes(source), label)
        if not isinstance(source, (str, os.PathLike)):
            raise InputError(f"{label}: found {type(source).__name__}, expected a path or bytes")
        text = os.fspath(source)
        path = Path(Places.of().path(text))
        if path.is_dir():
            return _open_directory(path)
        if path.is_file() and path.name.endswith(SAFETENSORS):
            return _open_file(path, str(path))
        raise InputError(
            f"{text}: is no patch; expected a directory with {PATCH_NAME} in it, or a "
            f"{SAFETENSORS} file that 'tallies patch' wrote"
        )

    def held(self) -> Patch:
        """Return the patch with all of its files in memory, each read at once.

        Raises:
            StorageError: A file cannot be read.
        """
        paths = {tensor.path for tensor in self.entries.values()} - self.memory.keys()
        return replace(
            self, memory={**self.memory, **{path: file_in_memory(path) for path in paths}}
        )

    def part(self, tensor: TensorChange, number: int, threads: int = 1) -> PartChange:
        """Read the changes of a part of a tensor.

        Args:
            tensor: The record of the tensor.
            number: The number of the part.
            threads: The threads that decode.

        Raises:
            InputError: An entry is damaged.
            StorageError: An entry cannot be read.
        """
        part = tensor.parts[number]
        names = PartEntries.of(tensor.name, number, part.layout)
        if names.values is None:
            return PartChange("none")
        unit = DTYPES[tensor.dtype]
        n_values = part.n_elements if part.layout == "dense" else part.n_changed
        values_kind = "new" if tensor.is_stored_whole else self.manifest.values
        fields = fields_of(values_kind, tensor.dtype)
        values = self._content(names.values, n_values * unit, unit, threads, fields)
        if names.positions is None or names.blocks is None:
            return PartChange(part.layout, values=values)
        blocks = self._content(names.blocks, 8 * n_blocks(part.n_elements), 4, threads)
        n_positions = int.from_bytes(blocks[-8:-4], "little")
        if n_positions > most_positions(part.layout, part.n_elements, part.n_changed):
            raise InputError(
                f"{self.label}: entry {show(names.blocks)} ends at {n_positions} bytes of "
                f"positions, too many for {part.n_changed} changed elements; {_AGAIN}"
            )
        positions = self._content(names.positions, n_positions, 1, threads)
        return PartChange(part.layout, positions, values, blocks)

    def new_tensor(self, name: str) -> TensorInfo:
        """Return the place of a tensor that is stored whole and uncoded, under its own name."""
        return replace(self.entries[new_name(name)], name=name)

    def check_new(self, name: str, lanes: list[int]) -> None:
        """Raise InputError unless a tensor that the patch has whole is what was stored."""
        self._check(self.entries[new_name(name)], tensor_fingerprint(self.new_tensor(name), lanes))

    def check_all(self) -> None:
        """Compare all that is stored with its checksum; see ``part`` for what is raised."""
        for name in self.entries:
            self._read(name)
        for one in self.manifest.kept_files:
            self.small_file(one)

    def small_file(self, one: KeptFile) -> bytes:
        """Read a small file that the patch keeps, and compare it with its checksum."""
        if one.entry in self.entries:
            data = bytes(self._read(one.entry))
            where = f"{self.label}: entry {show(one.entry)}"
        else:
            place = self.path / one.place
            try:
                data = place.read_bytes()
            except OSError as error:
                raise StorageError(f"{place}: cannot be read: {error.strerror}") from None
            where = str(place)
        found = checksum(data)
        if found != one.checksum:
            raise InputError(
                f"{where}: is damaged: its checksum is {found}, expected {one.checksum}; {_AGAIN}"
            )
        return data

    def _content(
        self, name: str, n_bytes: int, unit: int, threads: int, fields: Fields = Fields.BYTES
    ) -> memoryview:
        """Return the content of an entry, decoded and without the bytes that fill it."""
        stored = self._read(name)
        if self.manifest.coder != "none":
            sizes = self._read(frames_name(name))
            try:
                return memoryview(decoded(stored, sizes, n_bytes, unit, fields, threads))
            except Damaged as error:
                raise InputError(f"{self.label}: entry {show(name)}: {error}; {_AGAIN}") from None
        found = memoryview(stored)
        if len(found) != filled(n_bytes) or any(found[n_bytes:]):
            raise InputError(
                f"{self.label}: entry {show(name)} has {len(found)} bytes, expected {n_bytes} and "
                f"zeros up to {filled(n_bytes)}; {_AGAIN}"
            )
        return found[:n_bytes]

    def _read(self, name: str) -> memoryview:
        tensor = self.entries[name]
        file = self.memory.get(tensor.path)
        if file is not None:
            data = file[tensor.offset : tensor.offset + tensor.n_bytes]
        else:
            data = memoryview(whole(tensor))
        self._check(tensor, tensor_fingerprint(tensor, content_in_place(data)))
        return data

    def _check(self, tensor: TensorInfo, found: str) -> None:
        expected = self.manifest.stored[tensor.name].fingerprint
        if found != expected:
            raise InputError(
                f"{self.label}: entry {show(tensor.name)} is damaged: its checksum is {found}, "
                f"expected {expected}; {_AGAIN}"
            )


def is_patch(path: Path) -> bool:
    """Return whether a directory has a patch in it, or a file is one."""
    if path.is_dir():
        return (path / PATCH_NAME).is_file()
    try:
        return path.name.endswith(SAFETENSORS) and PATCH in read_header(path)[1]
    except TalliesError:
        return False


def _open_directory(path: Path) -> Patch:
    place = path / PATCH_NAME
    if not place.is_file():
        raise InputError(
            f"{path}: is no patch: found no {PATCH_NAME}; name a directory that 'tallies patch' "
            "wrote"
        )
    text = read_text(place)
    manifest = Manifest.parse(json_object(text, str(place)), str(place))
    entries, n_bytes = {}, len(text)
    for file in sorted({one.file for one in manifest.stored.values()}):
        where = path / file
        if not file or not where.is_file():
            raise InputError(f"{where}: is missing from the patch; {_AGAIN}")
        for tensor in read_header(where)[0]:
            if getattr(manifest.stored.get(tensor.name), "file", None) != file:
                raise InputError(
                    f"{where}: has entry {show(tensor.name)}, unlike {PATCH_NAME} says; {_AGAIN}"
                )
            entries[tensor.name] = tensor
        n_bytes += where.stat().st_size
    n_bytes += sum(one.n_bytes for one in manifest.kept_files)
    return _checked(Patch(str(path), path, manifest, entries, n_bytes))


def _open_file(path: Path, label: str) -> Patch:
    try:
        tensors, metadata = read_header(path)
    except TalliesError as error:
        raise type(error)(str(error).replace(str(path), label)) from None
    if PATCH not in metadata:
        raise InputError(
            f"{label}: is no patch: its header has no {PATCH!r}; name a file that 'tallies "
            "patch' wrote"
        )
    where = f"{label}: {PATCH}"
    manifest = Manifest.parse(json_object(metadata[PATCH].encode(), where), where)
    entries = {tensor.name: tensor for tensor in tensors}
    missing = sorted({one.entry for one in manifest.kept_files} - entries.keys())
    if missing:
        raise InputError(f"{label}: lacks entry {show(missing[0])}; {_AGAIN}")
    return _checked(Patch(label, path, manifest, entries, path.stat().st_size))


def _open_bytes(data: bytes, label: str) -> Patch:
    """Open the bytes of a file as a file without a name, so that all are read alike."""
    path, memory = file_without_name(data)
    return replace(_open_file(path, label), memory={path: memory})


def _checked(patch: Patch) -> Patch:
    """Return a patch; InputError unless its entries are those that its manifest needs."""
    stored = patch.manifest.stored
    odd = sorted(stored.keys() ^ patch.entries.keys())
    if odd:
        verb = "lacks" if odd[0] in stored else "has"
        raise InputError(f"{patch.label}: {verb} entry {show(odd[0])}, unlike it says; {_AGAIN}")
    for one in patch.manifest.tensors:
        if one.is_stored_whole and not one.parts:
            _refuse_form(patch, new_name(one.name), one.new_form)
        for number, part in enumerate(one.parts):
            _check_part(patch, one, number, part)
    return patch


def _check_part(patch: Patch, one: TensorChange, number: int, part: Part) -> None:
    names = PartEntries.of(one.name, number, part.layout)
    if patch.manifest.coder != "none" or names.values is None:
        return
    unit = DTYPES[one.dtype]
    n = part.n_elements if part.layout == "dense" else part.n_changed
    _refuse_form(patch, names.values, (f"U{8 * unit}", (filled(n * unit) // unit,)))
    if names.blocks is not None:
        _refuse_form(patch, names.blocks, blocks_entry(names.blocks, part.n_elements)[1:])


def _refuse_form(patch: Patch, name: str, expected: object) -> None:
    found = patch.entries[name]
    if (found.dtype, found.shape) != expected:
        raise InputError(
            f"{patch.label}: entry {show(name)} is {found.dtype} {list(found.shape)}, expected "
            f"{show(expected)}; {_AGAIN}"
        )
