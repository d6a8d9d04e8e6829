"""Find where the entries of a torch archive lie, from the directory of the zip alone."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Final

from ..errors import InputError
from ..messages import counted, show, some
from .json_text import DAMAGED, MAX_TENSORS, MAX_WIDE_BYTES, refuse_unreadable
from .pointers import refuse_pointer

SAVE_AGAIN: Final = (
    "load it where it comes from and save the state dict alone: torch.save(model.state_dict(), "
    "FILE), or save_pretrained for safetensors"
)

_LOCAL: Final = struct.Struct("<4sHHHHHIIIHH")
"""The header before an entry's bytes; its last two numbers are the lengths of name and extra."""

_ENCRYPTED: Final = 1

_MAX_DIRECTORY: Final = 128 * MAX_TENSORS
_MAX_EXTRA: Final = 1024
"""The most bytes of an entry's extra fields: the time to read them grows with their square."""


_CENTRAL: Final = struct.Struct("<28xHHH12x")
"""An entry of the directory; its numbers are the lengths of name, extra fields and comment."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The bytes of an entry: ``n_bytes`` of the file, from ``offset`` on."""

    offset: int
    n_bytes: int


@dataclass(frozen=True)
class Archive:
    """The entries of an archive by name, below its one top directory."""

    path: Path
    entries: Mapping[str, Entry]

    def read(self, name: str) -> bytes:
        """Return the bytes of a small entry."""
        entry = self.entries[name]
        if entry.n_bytes > MAX_WIDE_BYTES:
            raise InputError(
                f"{self.path}: entry {show(name)} of {entry.n_bytes} bytes, expected at most "
                f"{MAX_WIDE_BYTES}; {SAVE_AGAIN}"
            )
        try:
            with open(self.path, "rb") as file:
                file.seek(entry.offset)
                return file.read(entry.n_bytes)
        except OSError as error:
            refuse_unreadable(error, self.path)


class _BoundedDirectory(io.BufferedReader):
    """A zip file whose directory, which ``zipfile`` reads at once, has a most of entries."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY:
            raise self._refusal(f"{size} bytes, expected at most {_MAX_DIRECTORY}")
        data = super().read(size)
        at, n_entries = 0, 0
        while data.startswith(b"PK\1\2") and at + _CENTRAL.size <= len(data):
            sizes = _CENTRAL.unpack_from(data, at)
            if sizes[1] > _MAX_EXTRA:
                raise self._refusal(f"{sizes[1]} bytes beside a name, expected {_MAX_EXTRA}")
            n_entries += 1
            if n_entries > MAX_TENSORS:
                raise self._refusal(f"more than {MAX_TENSORS} entries, the most of a file")
            at += _CENTRAL.size + sum(sizes)
        return data

    def _refusal(self, found: str) -> InputError:
        return InputError(f"{self.name}: the directory of the zip has {found}; {SAVE_AGAIN}")


def read_archive(path: Path) -> Archive:
    """Read the directory of a zip file that ``torch.save`` wrote.

    Args:
        path: The file.

    Returns:
        The entries, which are stored as they are and lie apart within the file.

    Raises:
        InputError: If the file is no such archive, is damaged, holds a compressed entry or one
            whose name leads outside, or is a TorchScript archive or of another byte order.
        StorageError: If the file cannot be read.
    """
    try:
        with _BoundedDirectory(io.FileIO(path)) as file:
            size = os.fstat(file.fileno()).st_size
            _check_start(path, file.read(128))
            if not zipfile.is_zipfile(file):
                raise InputError(
                    f"{path}: truncated: {counted(size, 'byte')}, and no zip directory at the end, "
                    "as torch.save writes one; copy or download it again"
                )
            with zipfile.ZipFile(file) as archive:
                infos, end = archive.infolist(), archive.start_dir
            _refuse_script(path, infos)
            found = {}
            for info in infos:
                if info.filename in found:
                    raise InputError(
                        f"{path}: entry {show(info.filename)} appears twice; {DAMAGED}"
                    )
                _check_info(path, info)
                file.seek(min(max(info.header_offset, 0), size))
                head = file.read(_LOCAL.size + 4 * len(info.orig_filename))  # at most 4 bytes each
                found[info.filename] = _entry(path, info, head, size)
    except InputError:
        raise
    except OSError as error:
        refuse_unreadable(error, path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
        raise InputError(
            f"{path}: not a complete zip archive ({error}), as torch.save writes; {DAMAGED}"
        ) from None
    _check_apart(path, found, infos, end)
    return _torch_archive(path, found)


def _check_start(path: Path, start: bytes) -> None:
    """Refuse a file that is no zip archive, by how the file begins."""
    if start[:4] == b"PK\3\4":
        return
    refuse_pointer(path, start)
    if start[:1] == b"\x80":
        raise InputError(
            f"{path}: is a pickle of the legacy format, expected a zip archive of torch.save; load "
            "it with torch.load(weights_only=True) and save it again with torch.save or safetensors"
        )
    raise InputError(
        f"{path}: begins with {show(start[:8])}, expected a zip archive of torch.save; {DAMAGED}, "
        "or convert the model to safetensors"
    )


def _refuse_script(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive of ``torch.jit.save``, which holds a program beside the tensors."""
    if any(info.filename.endswith("/constants.pkl") for info in infos):
        raise InputError(
            f"{path}: is a TorchScript archive, expected a state dict; save that with "
            "torch.save(torch.jit.load(FILE).state_dict(), OUT)"
        )


def _check_info(path: Path, info: zipfile.ZipInfo) -> None:
    """Refuse an entry that is not stored as it is, or whose name leads outside."""
    parts = PureWindowsPath(info.filename)
    if not info.filename.isprintable() or parts.anchor or ".." in parts.parts:
        raise InputError(
            f"{path}: entry {show(info.filename)} leads outside the archive, expected a plain "
            f"name; {DAMAGED}"
        )
    if info.flag_bits & _ENCRYPTED:
        raise InputError(f"{path}: entry {show(info.filename)} is encrypted; {SAVE_AGAIN}")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise InputError(
            f"{path}: entry {show(info.filename)} is compressed, expected stored bytes; save it "
            "again with torch.save"
        )


def _entry(path: Path, info: zipfile.ZipInfo, head: bytes, size: int) -> Entry:
    """Find an entry's bytes behind its local header."""
    if len(head) >= _LOCAL.size:
        signature, _, flags, method, _, _, _, _, _, n_name, n_extra = _LOCAL.unpack_from(head)
        name = head[_LOCAL.size : _LOCAL.size + n_name]
        expected = info.orig_filename.encode("utf-8" if flags & 0x800 else "cp437", "replace")
        if signature == b"PK\3\4" and name == expected and method == zipfile.ZIP_STORED:
            entry = Entry(info.header_offset + _LOCAL.size + n_name + n_extra, info.file_size)
            if entry.offset + entry.n_bytes <= size:
                return entry
            raise InputError(
                f"{path}: truncated: has {size} bytes, entry {show(info.filename)} ends at "
                f"{entry.offset + entry.n_bytes}; {DAMAGED}"
            )
    raise InputError(
        f"{path}: entry {show(info.filename)} has no header of its own at byte "
        f"{info.header_offset}; {DAMAGED}"
    )


def _check_apart(
    path: Path, found: Mapping[str, Entry], infos: list[zipfile.ZipInfo], end: int
) -> None:
    """Refuse entries that share bytes with each other or with the directory."""
    before, end_before = "", 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end_before:
            raise InputError(
                f"{path}: entry {show(info.filename)} overlaps entry {show(before)}; {DAMAGED}"
            )
        entry = found[info.filename]
        before, end_before = info.filename, entry.offset + entry.n_bytes
        if end_before > end:
            raise InputError(
                f"{path}: entry {show(before)} ends at byte {end_before}, expected at most {end}, "
                f"where the directory of the archive begins; {DAMAGED}"
            )


def _torch_archive(path: Path, found: Mapping[str, Entry]) -> Archive:
    """Take the entries below the directory that holds ``data.pkl``."""
    roots = [name[: -len("data.pkl")] for name in found if name.endswith("/data.pkl")]
    if len(roots) != 1 or roots[0].count("/") != 1:
        raise InputError(
            f"{path}: holds {some(sorted(found)) or 'no entries'}, expected a zip archive of "
            f"torch.save with one data.pkl; {SAVE_AGAIN}"
        )
    below = {
        name[len(roots[0]) :]: entry for name, entry in found.items() if name.startswith(roots[0])
    }
    archive = Archive(path, below)
    if "byteorder" in below and (order := archive.read("byteorder")) != b"little":
        raise InputError(
            f"{path}: has the byte order {show(order[:16])}, expected b'little'; load it and save "
            "it again on a little-endian machine"
        )
    return archive
