"""The files of a new checkpoint: those of the old one, unless a patch adds or removes tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.json_text import refuse_unreadable
from ..checkpoint.layout import Entry, Shard, index_files, layout_parts, one_file, tensor_bytes
from ..checkpoint.parts import folder_of
from ..checkpoint.tensors import TensorInfo
from ..checkpoint.weight_names import SAFETENSORS
from .manifest import Form

_MOST_BYTES = 5 * 10**9


@dataclass(frozen=True)
class ResultFile:
    """A file to write: its header, and the places of its tensors."""

    name: str
    """The path in the directory of the result, with slashes."""
    head: bytes
    places: Mapping[str, TensorInfo]
    """By the name in the model; the paths are relative to the result."""

    @property
    def n_bytes(self) -> int:
        """The bytes of the file."""
        return len(self.head) + sum(place.n_bytes for place in self.places.values())


@dataclass(frozen=True)
class Result:
    """The files of a new checkpoint."""

    files: list[ResultFile]
    indexes: dict[str, bytes]

    @classmethod
    def like(cls, old: Checkpoint, forms: Mapping[str, Form]) -> Result:
        """Lay out a directory in the files of an old checkpoint.

        A file whose tensors stay what they were, by name, dtype and shape, keeps its header. New
        tensors go into the last file of their folder.

        Args:
            old: The old checkpoint.
            forms: The dtype and shape of each tensor of the new one.
        """
        entries: list[Entry] = [(name, *form) for name, form in forms.items()]
        if any(path.suffix != SAFETENSORS for path in old.files) or not os.path.isdir(old.path):
            return cls._of(layout_parts(entries, old, _MOST_BYTES))
        shards, files = [], []
        for shard in _shards(old, entries):
            shards.append(shard)
            files.append(_kept(old, shard, forms) or _file(shard))
        return cls([file for file in files if file.places], index_files(shards))

    @classmethod
    def single(
        cls, name: str, old: Checkpoint, forms: Mapping[str, Form], metadata: Mapping[str, str]
    ) -> Result:
        """Lay out one file; InputError for weights that lie in sub-directories."""
        entries = [(name, *form) for name, form in forms.items()]
        return cls([_file(one_file(name, entries, old, metadata))], {})

    @classmethod
    def _of(cls, shards: list[Shard]) -> Result:
        return cls([_file(shard) for shard in shards], index_files(shards))


def _shards(old: Checkpoint, entries: list[Entry]) -> list[Shard]:
    """Return the files of the old checkpoint with the tensors of the new one."""
    last = {part.folder: part.files[-1] for part in old.parts}
    homes = {name: tensor.path for name, tensor in old.tensors.items()}
    by_file: dict[Path, list[Entry]] = {file: [] for part in old.parts for file in part.files}
    for entry in sorted(entries, key=lambda entry: entry[0]):
        by_file[homes.get(entry[0]) or last[folder_of(entry[0], old.parts)]].append(entry)
    return [
        Shard(
            file.relative_to(old.path).as_posix(),
            tuple(by_file[file]),
            sum(map(tensor_bytes, by_file[file])),
            part,
        )
        for part in old.parts
        for file in part.files
        if by_file[file]
    ]


def _kept(old: Checkpoint, shard: Shard, forms: Mapping[str, Form]) -> ResultFile | None:
    """Return an old file under its own header; None where its tensors are others by now."""
    path = old.path / shard.name
    own = {name: one for name, one in old.tensors.items() if one.path == path}
    if {name: (one.dtype, one.shape) for name, one in own.items()} != {
        name: forms[name] for name, _, _ in shard.tensors
    }:
        return None
    begin = min(one.offset for one in own.values())
    try:
        with open(path, "rb") as file:
            head = file.read(begin)
    except OSError as error:
        refuse_unreadable(error, path)
    return ResultFile(
        shard.name, head, {n: replace(one, path=Path(shard.name)) for n, one in own.items()}
    )


def _file(shard: Shard) -> ResultFile:
    return ResultFile(shard.name, shard.header()[0], shard.places(Path()))
