"""The layout of an output before a byte of it is written: sizes, shards, headers and the index.

Pure functions. The same tensors give the same bytes, in whatever order they are given.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from ..errors import InputError
from ..messages import show
from ..spec.dtypes import DTYPES
from .json_text import MAX_HEADER_BYTES

Entry: TypeAlias = tuple[str, str, Sequence[int]]
"""A tensor to be written: its name, its dtype (of ``DTYPES``) and its shape."""

ALIGNMENT: Final = 64
"""Tensor data begin at a multiple of this many bytes: a cache line, and the widest vector."""

INDEX_NAME: Final = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Shard:
    """One output file: its name, its tensors in the order of their names, and their bytes."""

    name: str
    tensors: tuple[Entry, ...]
    n_bytes: int


def tensor_bytes(tensor: Entry) -> int:
    """Return the bytes of a tensor; InputError for a dtype or shape that cannot be stored."""
    name, dtype, shape = tensor
    if dtype not in DTYPES:
        raise InputError(
            f"tensor {show(name)}: dtype {show(dtype)}, expected one of {', '.join(DTYPES)}"
        )
    if any(size < 0 for size in shape):
        raise InputError(
            f"tensor {show(name)}: shape {show(tuple(shape))}, expected non-negative integers"
        )
    return DTYPES[dtype] * math.prod(shape)


def header(
    tensors: Sequence[Entry], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, list[int]]:
    """Return the first bytes of a safetensors file, and the offset of each tensor in the file.

    On disk the tensors lie end to end, wider dtypes first, then by name, so that each is aligned to
    its elements. Spaces fill the header up to a multiple of ``ALIGNMENT``.

    >>> head, offsets = header([("a", "U8", (3,)), ("b", "F32", (2, 2))])
    >>> len(head), offsets
    (128, [144, 128])
    """
    sizes = [tensor_bytes(tensor) for tensor in tensors]
    order = sorted(range(len(tensors)), key=lambda i: (-DTYPES[tensors[i][1]], tensors[i][0]))
    begins = [0] * len(tensors)
    end = 0
    entries: dict[str, object] = {"__metadata__": dict(sorted((metadata or {}).items()))}
    for i in order:
        name, dtype, shape = tensors[i]
        if name in entries:
            raise InputError(f"tensor {show(name)}: expected a name of its own in each file")
        begins[i], end = end, end + sizes[i]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begins[i], end]}
    if not metadata:
        del entries["__metadata__"]
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise InputError(
            f"header of {len(text)} bytes for {len(tensors)} tensors, expected at most "
            f"{MAX_HEADER_BYTES}; write smaller shards"
        )
    head = len(text).to_bytes(8, "little") + text
    return head, [len(head) + begin for begin in begins]


def layout_shards(tensors: Iterable[Entry], max_shard_bytes: int) -> list[Shard]:
    """Fill files in the order of the names, each up to ``max_shard_bytes`` of data.

    A tensor larger than that gets a file of its own. Names are Hugging Face's:
    ``model.safetensors``, or ``model-00001-of-00003.safetensors``.
    """
    if max_shard_bytes <= 0:
        raise InputError(f"shard size {max_shard_bytes}, expected at least one byte, such as '5GB'")
    groups: list[list[Entry]] = [[]]
    sizes = [0]
    for entry in sorted(tensors, key=lambda entry: entry[0]):
        n_bytes = tensor_bytes(entry)
        if groups[-1] and sizes[-1] + n_bytes > max_shard_bytes:
            groups.append([])
            sizes.append(0)
        groups[-1].append(entry)
        sizes[-1] += n_bytes
    if len(groups) == 1:
        names = ["model.safetensors"]
    else:
        last = len(groups)
        names = [f"model-{i:05d}-of-{last:05d}.safetensors" for i in range(1, last + 1)]
    return [Shard(*shard) for shard in zip(names, map(tuple, groups), sizes, strict=True)]


def index_json(shards: Iterable[Shard]) -> bytes:
    """Return the text of ``model.safetensors.index.json``: the file of each tensor, by name."""
    shards = list(shards)
    index = {
        "metadata": {"total_size": sum(shard.n_bytes for shard in shards)},
        "weight_map": {entry[0]: shard.name for shard in shards for entry in shard.tensors},
    }
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()


def index_file(shards: Sequence[Shard]) -> bytes | None:
    """Return the index of the output files; None when one file holds everything."""
    return index_json(shards) if len(shards) > 1 else None
