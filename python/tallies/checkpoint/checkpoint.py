"""Checkpoints as maps from tensor name to byte range, and the small files beside the tensors.

Only headers, indexes and config.json are read, never tensor data.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..messages import show
from .beside import Beside, look_beside
from .causes import (
    refuse_absent,
    refuse_hub_cache,
    refuse_other_file,
    refuse_patch,
    refuse_store,
)
from .folders import declared_folders, find_parts
from .interrupted import refuse_interrupted
from .json_text import json_object, read_text
from .parts import Part, folder_of
from .shards import one_file
from .tensors import TensorInfo

if TYPE_CHECKING:
    from .adapters.adapter import Adapter


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a model on disk by name, in the order of the names' UTF-8 bytes.

    ``Checkpoint.open("llama-3.2-1b").tensors["model.norm.weight"].shape`` is ``(2048,)``.
    """

    path: Path
    tensors: dict[str, TensorInfo]
    parts: tuple[Part, ...]
    """The weights of the directory, and those of sub-directories."""
    folders: tuple[str, ...] = ()
    """The sub-directories that the model declares, with weights or without."""
    left_out: tuple[str, ...] = ()
    """Names in the files that are no tensors of the model: factors of quantised weights."""
    adapters: tuple[Adapter, ...] = ()
    """The adapters whose changes its tensors have, in the order in which they are made."""

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, variant: str = "") -> Checkpoint:
        """Read the headers of a weight file, or of a model's directory and its parts.

        Args:
            path: A ``.safetensors``, ``.bin``, ``.pt`` or ``.pth`` file, or a directory.
            variant: The variant to read where a directory has several, such as ``fp16``.

        Raises:
            InputError: The path is no complete, well-formed checkpoint, or is changing in place.
            StorageError: The system cannot read the files.
        """
        root = Path(path)
        folders: list[str] = []
        if os.path.isdir(path):
            refuse_store(root)
            refuse_patch(root)
            folders = declared_folders(root)
            shards = find_parts(root, folders, variant)
        elif os.path.isfile(path):
            shards = {"": one_file(root)}
        else:
            refuse_absent(os.fspath(path))
        tensors: dict[str, TensorInfo] = {}
        parts = []
        for folder, found in shards.items():
            part, its = found.read(folder)
            for name in its.keys() & tensors.keys():
                raise InputError(
                    f"{its[name].path}: tensor {show(name)} has the name of one in "
                    f"{tensors[name].path}; expected a name of its own"
                )
            parts.append(part)
            tensors |= its
        refuse_interrupted(root, [file for part in parts for file in part.files])
        # Code points sort as their UTF-8 bytes do: no need to encode the names.
        return cls(root, dict(sorted(tensors.items())), tuple(parts), tuple(folders))

    @classmethod
    def open_small_files(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Find the small files of a model; its weights are not read, and may be absent.

        Args:
            path: A model as ``open`` takes it, or a directory without weights.

        Raises:
            InputError: The path is no directory or weight file, or is a store.
            StorageError: The system cannot read a file.
        """
        root = Path(path)
        if os.path.isdir(path):
            refuse_store(root)
            refuse_hub_cache(root)
            return cls(root, {}, (), tuple(declared_folders(root)))
        if not os.path.isfile(path):
            refuse_absent(os.fspath(path))
        refuse_other_file(root)
        return cls(root, {}, ())

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the weight files of all parts, and those of adapters."""
        own = [file for part in self.parts for file in part.files]
        return (*own, *(file for one in self.adapters for file in one.files))

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return the path of the model, and those of its adapters."""
        return (self.path, *(one.path for one in self.adapters))

    @property
    def label(self) -> str:
        """The model in messages: its path, and behind a plus the path of each adapter."""
        return "+".join(map(str, self.paths))

    @property
    def metadata(self) -> dict[str, str]:
        """Join the ``__metadata__`` of the parts; where they differ, the first one's stays."""
        joined: dict[str, str] = {}
        for part in self.parts:
            joined = part.metadata | joined
        return joined

    def by_part(self) -> list[Checkpoint]:
        """Return the parts as checkpoints of their own, with the names that this one has."""
        if [part.folder for part in self.parts] in ([], [""]):
            return [self]
        tensors: dict[str, dict[str, TensorInfo]] = {part.folder: {} for part in self.parts}
        for name, tensor in self.tensors.items():
            tensors[folder_of(name, self.parts)][name] = tensor
        return [
            replace(
                self,
                path=self.path / part.folder,
                tensors=tensors[part.folder],
                parts=(part,),
                folders=(),
                left_out=tuple(
                    name for name in self.left_out if folder_of(name, self.parts) == part.folder
                ),
            )
            for part in self.parts
        ]

    @property
    def n_bytes(self) -> int:
        """Return the bytes of tensor data, headers not counted."""
        return sum(tensor.n_bytes for tensor in self.tensors.values())

    def config(self, folder: str = "") -> dict[str, Any]:
        """Return config.json of a part's directory; an empty one without it, or for one file."""
        path = self.path / folder / "config.json"
        return json_object(read_text(path), str(path)) if os.path.isfile(path) else {}

    @property
    def not_read(self) -> dict[str, str]:
        """Say what lies beside the weights and is left out, by its relative path, and why."""
        return self._beside.left_out

    def auxiliary_files(self) -> list[Path]:
        """List the files to copy, relative to the directory: configuration, tokenizer and the like.

        Everything below the directory but weights of any format, their indexes, ``tallies.json``,
        what is hidden, and sub-directories of training and of exports; nothing for a single file.
        Links to files count as files (hub caches consist of them), links to directories are not
        followed, a link to nothing raises ``InputError``.
        """
        files = self._beside.small
        if self.left_out or not self.tensors:  # ModelOpt's declaration of what no result is
            files = [path for path in files if path.name != "hf_quant_config.json"]
        return files

    def small_files(self) -> dict[Path, Path]:
        """Return the places of the files to copy, by their paths relative to the directory.

        They are the ``auxiliary_files``. A file of a tokenizer that an adapter has beside it, which
        may have tokens of its own, stands in the place of the model's.
        """
        found = {path: self.path / path for path in self.auxiliary_files()}
        if os.path.isdir(self.path):
            for adapter in self.adapters:
                found |= {Path(path.name): path for path in adapter.tokenizer_files()}
        return dict(sorted(found.items()))

    @cached_property
    def _beside(self) -> Beside:
        if not os.path.isdir(self.path):
            return Beside()
        declared: dict[str, Part | None] = dict.fromkeys(("", *self.folders))
        return look_beside(self.path, declared | {part.folder: part for part in self.parts})
