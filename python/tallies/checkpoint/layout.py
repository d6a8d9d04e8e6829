"""The layout of an output before a byte of it is written: sizes, shards, headers and the index.

Pure functions. The same tensors give the same bytes, in whatever order they are given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

from ..errors import InputError
from ..messages import show, some
from ..spec.dtypes import DTYPES, fills_bytes, size_of
from .checkpoint import Checkpoint
from .json_text import MAX_HEADER_BYTES
from .metadata import carried
from .parts import ROOT, Part, folder_of
from .tensors import TensorInfo
from .weight_names import SAFETENSORS, USUAL_STEMS

Entry: TypeAlias = tuple[str, str, Sequence[int]]
"""A tensor to be written: its name, its dtype (of ``DTYPES``) and its shape."""

ALIGNMENT: Final = 64
"""Tensor data begin at a multiple of this many bytes: a cache line, and the widest vector."""

INDEX_NAME: Final = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Shard:
    """One output file: its tensors in the order of their names, and their bytes."""

    name: str
    """The path in the directory of the result, with slashes."""
    tensors: tuple[Entry, ...]
    """Names are those in the model: ``FOLDER/NAME`` in a part of a sub-directory."""
    n_bytes: int
    part: Part = ROOT
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Metadata beside those of the template."""

    @property
    def stored(self) -> tuple[Entry, ...]:
        """The tensors by their names in the file, in the same order."""
        prefix = self.part.prefix
        return tuple(
            (name.removeprefix(prefix), dtype, shape) for name, dtype, shape in self.tensors
        )

    def header(self) -> tuple[bytes, list[int]]:
        """Return the first bytes of the file, and the offset of each tensor in it."""
        return header(self.stored, {**carried(self.part.metadata), **self.metadata})

    def places(self, directory: Path) -> dict[str, TensorInfo]:
        """Return the tensors by their names in the model, as they will lie in a directory."""
        path = directory / self.name
        return {
            name: TensorInfo(
                name, dtype, tuple(shape), path, at, tensor_bytes((name, dtype, shape))
            )
            for (name, dtype, shape), at in zip(self.tensors, self.header()[1], strict=True)
        }


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
    if not fills_bytes(dtype, shape):
        raise InputError(
            f"tensor {show(name)}: {dtype} of shape {show(tuple(shape))} is no whole number of "
            "bytes; store it as U8"
        )
    return size_of(dtype, shape)


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


def layout_shards(tensors: Iterable[Entry], max_shard_bytes: int, part: Part = ROOT) -> list[Shard]:
    """Fill files in the order of the names, each up to ``max_shard_bytes`` of data.

    A tensor larger than that gets a file of its own. Names are those that transformers and
    diffusers give: ``model.safetensors``, or ``model.fp16-00001-of-00003.safetensors``.
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
    stem = f"{part.prefix}{part.stem}{part.dotted_variant}"
    if len(groups) == 1:
        names = [f"{stem}.safetensors"]
    else:
        last = len(groups)
        names = [f"{stem}-{i:05d}-of-{last:05d}.safetensors" for i in range(1, last + 1)]
    return [
        Shard(name, tuple(group), size, part)
        for name, group, size in zip(names, groups, sizes, strict=True)
    ]


def layout_parts(
    tensors: Iterable[Entry], template: Checkpoint, max_shard_bytes: int
) -> list[Shard]:
    """Lay out the files of all parts of a result, each part as ``layout_shards`` does.

    Args:
        tensors: The tensors by their names in the model.
        template: The model whose files' names and metadata the result takes over.
        max_shard_bytes: The most bytes of data in a file.
    """
    parts = [_named(part, template) for part in template.parts]
    by_folder: dict[str, list[Entry]] = {part.folder: [] for part in parts}
    for entry in tensors:
        by_folder[folder_of(entry[0], parts)].append(entry)
    return [
        shard
        for part in parts
        for shard in layout_shards(by_folder[part.folder], max_shard_bytes, part)
    ]


def _named(part: Part, template: Checkpoint) -> Part:
    """Return a part under a name by which libraries find it in a directory.

    The name of a directory's safetensors is such a name. A file that is a model by itself, and one
    of torch, may have any.
    """
    alone = not os.path.isdir(template.path)
    of_torch = any(path.suffix != SAFETENSORS for path in part.files)
    if part.stem not in USUAL_STEMS and (alone or of_torch):
        return replace(part, stem=ROOT.stem)
    return part


def one_file(
    name: str,
    tensors: Iterable[Entry],
    template: Checkpoint,
    metadata: Mapping[str, str] | None = None,
    *,
    files_from: object = None,
) -> Shard:
    """Lay out a result that is a single file, with nothing beside it.

    Args:
        name: The name of the file.
        tensors: The tensors by their names in the model.
        template: The model whose metadata the file takes over.
        metadata: Metadata beside those of the template.
        files_from: The model whose small files the request wants beside the result.

    Raises:
        InputError: One file cannot hold the result.
    """
    if files_from is not None:
        raise InputError(
            f"output {name!r}: nothing lies beside one file, found files_from ({files_from!s}); "
            "leave it out, or name a directory"
        )
    if len(template.parts) > 1:
        folders = [part.folder for part in template.parts if part.folder]
        raise InputError(
            f"output {name!r}: {template.path} has weights in sub-directories ({some(folders)}), "
            "which one file cannot hold; name a directory"
        )
    entries = sorted(tensors, key=lambda entry: entry[0])
    n_bytes = sum(map(tensor_bytes, entries))
    return Shard(name, tuple(entries), n_bytes, template.parts[0], metadata or {})


def index_json(shards: Iterable[Shard]) -> bytes:
    """Return the text of an index: the file of each tensor, by name, in the index's directory."""
    shards = list(shards)
    index = {
        "metadata": {"total_size": sum(shard.n_bytes for shard in shards)},
        "weight_map": {
            entry[0]: shard.name.removeprefix(shard.part.prefix)
            for shard in shards
            for entry in shard.stored
        },
    }
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()


def index_files(shards: Iterable[Shard]) -> dict[str, bytes]:
    """Return the index of each part that has several files, by its path in the result."""
    by_part: dict[str, list[Shard]] = {}
    for shard in shards:
        by_part.setdefault(shard.part.index_name, []).append(shard)
    return {name: index_json(group) for name, group in by_part.items() if len(group) > 1}
