"""The header of a safetensors file: which tensors it has, and where each of them lies.

It is hostile text, so it is checked in full here, and nothing downstream checks again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Final, TypeGuard

from ..errors import InputError, StorageError
from ..messages import show
from ..spec.dtypes import BY_NAME, DTYPES
from .json_text import (
    DAMAGED,
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    is_texts,
    json_object,
    refuse_crowded,
    refuse_unreadable,
)
from .pointers import refuse_pointer
from .tensors import MAX_DIMENSIONS, MAX_TENSOR_BYTES, TensorInfo

_ENTRY_KEYS: Final = frozenset({"dtype", "shape", "data_offsets"})

_PLACE: Final = attrgetter("offset", "n_bytes")


def read_header(path: Path) -> tuple[list[TensorInfo], dict[str, str]]:
    """Read the tensors of one safetensors file, in the order of its header, and its metadata.

    Headers are taken as the stock library takes them, but for duplicate or unknown keys and entries
    that are no objects, which that library resolves in silence.

    Raises:
        InputError: For all other headers, and for a file of another size than its header says.
        StorageError: If the file cannot be read.
    """
    text, data_begin, file_size = _read_header_text(path)
    refuse_crowded(text, f"{path}: header")
    entries = json_object(text, f"{path}: header", unique_keys=True)
    metadata = entries.pop("__metadata__", None)
    if metadata is None:  # absent, or null
        metadata = {}
    if len(entries) > MAX_TENSORS:
        raise InputError(
            f"{path}: has {len(entries)} tensors, expected at most {MAX_TENSORS}; write the model "
            "in several files"
        )
    if not is_texts(metadata):
        raise InputError(
            f"{path}: header: __metadata__ is {show(metadata)}, expected an object of strings; "
            f"{DAMAGED}"
        )
    size_of = cache(_n_bytes)  # most tensors of a file share a few shapes
    tensors = []
    for name, entry in entries.items():
        try:
            name.encode()  # "\ud800" is JSON, but not text
            dtype, shape, begin, end = _parse_entry(entry, size_of)
        except ValueError as error:
            raise InputError(f"{path}: tensor {show(name)}: {error}") from None
        tensors.append(TensorInfo(name, dtype, shape, path, data_begin + begin, end - begin))
    data_end = _tile(path, tensors, data_begin)
    if file_size < data_end:
        raise InputError(
            f"{path}: truncated: has {file_size} bytes, the header needs {data_end}; {DAMAGED}"
        )
    if file_size > data_end:
        raise InputError(
            f"{path}: has {file_size} bytes, but the last tensor ends at {data_end}; {DAMAGED}"
        )
    return tensors, metadata


def _read_header_text(path: Path) -> tuple[bytes, int, int]:
    """Read the JSON of a header, the offset at which the data begin, and the size of the file."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                raise InputError(
                    f"{path}: truncated: has {size} bytes, the length of the header alone takes 8; "
                    f"{DAMAGED}"
                )
            head = file.read(64)
            refuse_pointer(path, head)
            n_header = int.from_bytes(head[:8], "little")
            if n_header > MAX_HEADER_BYTES:
                raise InputError(
                    f"{path}: header of {n_header} bytes, expected at most {MAX_HEADER_BYTES}; "
                    "not a safetensors file"
                )
            if n_header > size - 8:
                raise InputError(
                    f"{path}: truncated: has {size} bytes, the header alone takes {8 + n_header}; "
                    f"{DAMAGED}"
                )
            file.seek(8)
            text = file.read(n_header)
    except OSError as error:
        refuse_unreadable(error, path)
    if len(text) < n_header:
        raise StorageError(f"{path}: shrank while it was read; wait for its writer, then run again")
    return text, 8 + n_header, size


def _parse_entry(
    entry: object, size_of: Callable[[str, tuple[int, ...]], int]
) -> tuple[str, tuple[int, ...], int, int]:
    """Parse dtype, shape, begin and end of a tensor; ValueError says what was found."""
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise ValueError(
            f"found {show(entry)}, expected an object of dtype, shape and data_offsets; {DAMAGED}"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(
            f"dtype {show(dtype)} is unknown, expected one of {', '.join(DTYPES)}; merge the "
            "original checkpoint, or convert this one to BF16 first"
        )
    if not _is_sizes(shape):
        raise ValueError(f"shape {show(shape)}, expected non-negative integers; {DAMAGED}")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(
            f"shape of {len(shape)} dimensions, expected at most {MAX_DIMENSIONS}; reshape the "
            "tensor where the file comes from"
        )
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(
            f"data_offsets {show(offsets)}, expected [begin, end], 0 <= begin <= end; {DAMAGED}"
        )
    sizes = tuple(shape)
    n_bytes = size_of(dtype, sizes)
    begin, end = offsets
    if end - begin != n_bytes:
        raise ValueError(
            f"data_offsets {show(offsets)} span {end - begin} bytes, expected {n_bytes} for "
            f"{dtype} of shape {show(shape)}; {DAMAGED}"
        )
    return dtype, sizes, begin, end


def _n_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of a tensor; ValueError where no file can hold them."""
    n_bits = BY_NAME[dtype].n_bits or 8 * DTYPES[dtype]
    for size in shape:
        n_bits *= size
        if n_bits > 8 * MAX_TENSOR_BYTES:  # stop here: the product of a hostile shape has no end
            raise ValueError(f"shape {show([*shape])} is beyond 2**63 bytes; {DAMAGED}")
    if n_bits % 8:
        raise ValueError(
            f"{dtype} of shape {show([*shape])} is no whole number of bytes; {DAMAGED}"
        )
    return n_bits // 8


def _tile(path: Path, tensors: Iterable[TensorInfo], data_begin: int) -> int:
    """Return the end of the data, if the tensors lie end to end: no holes, no overlaps."""
    end = data_begin
    for tensor in sorted(tensors, key=_PLACE):
        if tensor.offset != end:
            wrong = "overlaps the one before" if tensor.offset < end else "leaves a hole before it"
            raise InputError(
                f"{path}: tensor {show(tensor.name)} begins at data byte "
                f"{tensor.offset - data_begin}, expected {end - data_begin}: it {wrong}; {DAMAGED}"
            )
        end += tensor.n_bytes
    return end


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and {*map(type, value)} <= {int} and min(value, default=0) >= 0
