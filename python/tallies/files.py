"""What is on disk and not merged: reading, comparing, copying and fingerprinting it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from . import _core
from .checkpoint import Checkpoint
from .errors import InputError, StorageError
from .headers import TensorInfo
from .native import DTYPE_CODES
from .outcomes import add_content

# Large enough that calls cost nothing beside the copy, small enough for the cache. The first are
# smaller: tensors that differ mostly do so at once. Multiples of 64.
_FIRST_CHUNK_BYTES = 1 << 12
_CHUNK_BYTES = 1 << 20
_BYTE = DTYPE_CODES["F8_E4M3"]  # any type of one byte


class Stored(Protocol):
    """A tensor's face: what its fingerprint holds beside its content."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


def refuse_undecodable(path: str | os.PathLike[str]) -> None:
    """Raise InputError for a path that is not text: no report or recipe could name it."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{os.fspath(path)!r}: the path is not UTF-8; rename it") from None


def chunks(tensor: TensorInfo) -> Iterator[bytearray]:
    """The bytes of a tensor, a bounded piece at a time; StorageError when they cannot be read."""
    try:
        with open(tensor.path, "rb", buffering=0) as file:
            file.seek(tensor.offset)
            left = tensor.n_bytes
            n_bytes = _FIRST_CHUNK_BYTES
            while left:
                chunk = bytearray(min(n_bytes, left))
                n_bytes = min(2 * n_bytes, _CHUNK_BYTES)
                view = memoryview(chunk)
                while view:
                    n = file.readinto(view)
                    if not n:
                        raise StorageError(
                            f"{tensor.path}: tensor {tensor.name!r} ends {left} bytes early; the "
                            "file was truncated while being read"
                        )
                    view = view[n:]
                yield chunk
                left -= len(chunk)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{tensor.path}: cannot be read: {error.strerror}") from None


def content(tensor: TensorInfo, first: int = 0) -> list[int]:
    """The eight 64-bit sums that stand for a tensor's content; see csrc/kernels/fingerprint.h.

    For a stretch of a larger tensor, ``first`` is the byte of that at which it begins.
    """
    lanes = [0] * 8
    for chunk in chunks(tensor):
        add_content(lanes, _content(chunk, first))
        first += len(chunk)
    return lanes


def contents(tensors: Sequence[TensorInfo], threads: int) -> list[list[int]]:
    """That of many tensors, read at the speed of memory or disk by several threads."""
    core = _core.Plan(False)
    files: dict[str, int] = {}
    for tensor in tensors:
        path = os.fspath(tensor.path)
        if path not in files:
            files[path] = core.open_to_read(path)
        core.add_job(tensor.n_bytes, [(files[path], tensor.offset, _BYTE)], [])
    return core.fingerprints(_core.Limits(threads, _CHUNK_BYTES))


def same_tensor(a: TensorInfo, b: TensorInfo) -> bool:
    """Whether two tensors have one dtype and hold the same bytes."""
    return a.dtype == b.dtype and same_bytes(a, b)


class Writer:
    """Writes the bytes of one tensor to its place in an output file."""

    def __init__(self, core: _core.Plan, file: int, offset: int) -> None:
        self._core = core
        self._file = file
        self._offset = offset

    def __call__(self, data: bytes, at: int) -> None:
        self._core.write(self._file, data, self._offset + at)


def copy_out(tensor: TensorInfo, write: Callable[[bytes, int], object]) -> list[int]:
    """Hand over a tensor's bytes, piece by piece with the position of each; their fingerprint."""
    lanes = [0] * 8
    at = 0
    for chunk in chunks(tensor):
        data = bytes(chunk)
        write(data, at)
        add_content(lanes, _content(chunk, at))
        at += len(data)
    return lanes


def _content(chunk: bytearray, first: int) -> list[int]:
    address = ctypes.addressof(ctypes.c_char.from_buffer(chunk)) if chunk else 0
    return _core.fingerprint(address, len(chunk), first)


def content_of(data: bytes | bytearray, first: int = 0) -> list[int]:
    """The same for bytes in memory."""
    return _content(bytearray(data), first)


def same_bytes(a: TensorInfo, b: TensorInfo) -> bool:
    """Whether two tensors hold the same bytes."""
    return a.n_bytes == b.n_bytes and all(x == y for x, y in zip(chunks(a), chunks(b), strict=True))


def tensor_fingerprint(tensor: Stored, lanes: Sequence[int]) -> str:
    """Sixteen hexadecimal digits that stand for a tensor's dtype, shape and content."""
    face = f"{tensor.dtype}{list(tensor.shape)}".encode()
    return hashlib.blake2b(face + struct.pack("<8Q", *lanes), digest_size=8).hexdigest()


def model_fingerprint(tensors: Mapping[str, str]) -> str:
    """Thirty-two hexadecimal digits that stand for all tensors of a model, by name."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors, key=str.encode):
        digest.update(f"{name}\0{tensors[name]}\n".encode())
    return digest.hexdigest()


def stamps(paths: Sequence[os.PathLike[str]]) -> dict[str, tuple[int, int]]:
    """Size and time of last change of files, to see whether they were changed meanwhile."""
    found = {}
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}") from None
        found[os.fspath(path)] = (status.st_size, status.st_mtime_ns)
    return found


def nonfinite_objection(tensor: TensorInfo, count: int, first: int) -> str | None:
    """What is wrong with a tensor that has so many NaN or infinite values; None if it has none."""
    if not count:
        return None
    return (
        f"{tensor.path}: tensor {tensor.name!r} has {count} NaN or infinite values, the first at "
        f"element {first}, expected finite ones; repair the model, or pass --nonfinite propagate"
    )


def refuse_changed(before: Mapping[str, tuple[int, int]]) -> None:
    """Raise StorageError if a file changed since its ``stamps`` were taken."""
    for path, stamp in stamps([Path(path) for path in before]).items():
        if stamp != before[path]:
            raise StorageError(
                f"{path}: changed while it was being read (from {before[path][0]} to {stamp[0]} "
                "bytes, or its time); try again when nothing writes to it"
            )


def auxiliary_sizes(donor: Checkpoint) -> dict[Path, int]:
    """The files to copy beside the tensors, and their bytes; StorageError if one is unreadable."""
    sizes = {}
    for path in donor.auxiliary_files():
        try:
            with open(donor.path / path, "rb") as file:
                sizes[path] = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise StorageError(f"{error.filename}: cannot be read: {error.strerror}") from None
    return sizes


def copy_file(source: Path, target: Path) -> None:
    """Copy a small file, with the directories it lies in; StorageError when that fails."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise StorageError(f"{source}: cannot be copied: {error.strerror or error}") from None
