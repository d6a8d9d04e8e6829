"""Tensors on disk that are not merged: reading, comparing, copying and fingerprinting them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from . import _core
from .checkpoint import TensorInfo
from .errors import InputError, StorageError
from .passes import add_content

# Large enough that calls cost nothing beside the copy, small enough for the cache; divides 64.
_CHUNK_BYTES = 1 << 20


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
            while left:
                chunk = bytearray(min(_CHUNK_BYTES, left))
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
        address = ctypes.addressof(ctypes.c_char.from_buffer(chunk))
        add_content(lanes, _core.fingerprint(address, len(chunk), first))
        first += len(chunk)
    return lanes


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
