"""Computes fingerprints of stored tensors and of whole models."""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from .._core import Limits, Plan, fingerprint
from ..checkpoint.changes import face as face_of
from ..checkpoint.changes import pieces
from ..checkpoint.data import _CHUNK_BYTES, chunks
from ..checkpoint.tensors import TensorInfo
from .decoding import decoded_chunks
from .files import PlanFiles


class Stored(Protocol):
    """The facts of a tensor that its fingerprint has beside its content."""

    @property
    def dtype(self) -> str:
        """The name of the dtype."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        ...


def content(tensor: TensorInfo, first: int = 0) -> list[int]:
    """Return the eight 64-bit sums that stand for a tensor's content.

    For a stretch of a larger tensor, ``first`` is the byte of the tensor at which it begins.
    """
    lanes = [0] * 8
    for chunk in chunks(tensor):
        add_content(lanes, _content(chunk, first))
        first += len(chunk)
    return lanes


def contents(tensors: Sequence[TensorInfo], threads: int) -> list[list[int]]:
    """Return the content fingerprints of many tensors, read by several threads."""
    files = PlanFiles(Plan(False))
    for tensor in tensors:
        files.plan.add_job(tensor.n_bytes, [files.bytes_place(tensor)], [])
    return files.plan.fingerprints(limits=Limits(threads, _CHUNK_BYTES))


def copy_out(
    tensor: TensorInfo, write: Callable[[bytes, int], object], dtype: str | None = None
) -> list[int]:
    """Hand over a tensor's bytes, piece by piece with the position of each.

    Those of a tensor with a scale or changes are of its decoded values, rounded once.

    Args:
        tensor: The tensor.
        write: Takes bytes, and the byte of the result at which they begin.
        dtype: The dtype of decoded values; None for the tensor's decoded dtype.

    Returns:
        The content fingerprint of the bytes that were handed over.
    """
    lanes = [0] * 8
    at = 0
    for chunk in decoded_chunks(tensor, dtype) if tensor.is_decoded else chunks(tensor):
        data = bytes(chunk)
        write(data, at)
        add_content(lanes, _content(chunk, at))
        at += len(data)
    return lanes


def _content(chunk: bytearray, first: int) -> list[int]:
    address = ctypes.addressof(ctypes.c_char.from_buffer(chunk)) if chunk else 0
    return fingerprint(address, len(chunk), first)


def content_of(data: bytes | bytearray | memoryview, first: int = 0) -> list[int]:
    """Return the content fingerprint of bytes in memory."""
    return _content(data if isinstance(data, bytearray) else bytearray(data), first)


def tensor_fingerprint(tensor: Stored, lanes: Sequence[int]) -> str:
    """Return sixteen hexadecimal digits that stand for a tensor's dtype, shape and content.

    Those of a tensor with a scale or changes stand for these as well, which are read.
    """
    face = f"{tensor.dtype}{list(tensor.shape)}".encode()
    if isinstance(tensor, TensorInfo) and tensor.scale is not None:
        scale = tensor.scale.tensor
        face += tensor_fingerprint(scale, content(scale)).encode()
    if isinstance(tensor, TensorInfo):
        gathered = tensor.gathered
        if gathered is not None:
            hidden = [gathered.source] if gathered.source.is_decoded else []
            hidden += gathered.averaged_rows()
            prints = [tensor_fingerprint(one, content(one)) for one in hidden]
            if prints or not gathered.rows.is_order:
                face += " ".join([gathered.rows.face(), *prints]).encode()
        for change in tensor.changes:
            prints = [tensor_fingerprint(one, content(one)) for one in pieces(change)]
            face += " ".join([face_of(change), *prints]).encode()
    return hashlib.blake2b(face + struct.pack("<8Q", *lanes), digest_size=8).hexdigest()


def model_fingerprint(tensors: Mapping[str, str]) -> str:
    """Return thirty-two hexadecimal digits that stand for all tensors of a model, by name."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors, key=str.encode):
        digest.update(f"{name}\0{tensors[name]}\n".encode())
    return digest.hexdigest()


def add_content(lanes: list[int], part: Sequence[int]) -> None:
    """Add the content fingerprint of another stretch in place; the sum is that of both."""
    lanes[:] = [(a + b) % (1 << 64) for a, b in zip(lanes, part, strict=True)]
