"""Checkpoints as maps from tensor name to byte range, and the small files beside the tensors.

Only headers, indexes and config.json are read, never tensor data.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from .json_text import json_object, read_text, refuse_unreadable
from .parts import Part
from .shards import find_shards, is_auxiliary, one_file, refuse_absent
from .tensors import TensorInfo


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a model on disk by name, in the order of the names' UTF-8 bytes.

    ``Checkpoint.open("llama-3.2-1b").tensors["model.norm.weight"].shape`` is ``(2048,)``.
    """

    path: Path
    tensors: dict[str, TensorInfo]
    parts: tuple[Part, ...]
    """The weights of the directory, and those of sub-directories."""
    left_out: tuple[str, ...] = ()
    """Names in the files that are no tensors of the model: factors of quantised weights."""
    not_read: dict[str, str] = field(default_factory=dict)
    """What lies beside the weights and is left out, by its relative path, and why."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Read the headers of a weight file, or of a directory with one or with an index.

        Args:
            path: A ``.safetensors``, ``.bin``, ``.pt`` or ``.pth`` file, or a directory.

        Raises:
            InputError: The path is no complete, well-formed checkpoint.
            StorageError: The system cannot read the files.
        """
        root = Path(path)
        if os.path.isdir(path):
            shards = find_shards(root)
        elif os.path.isfile(path):
            shards = one_file(root)
        else:
            refuse_absent(os.fspath(path))
        part, tensors = shards.read()
        # Code points sort as their UTF-8 bytes do: no need to encode the names.
        return cls(root, dict(sorted(tensors.items())), (part,))

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the weight files of all parts."""
        return tuple(file for part in self.parts for file in part.files)

    @property
    def metadata(self) -> dict[str, str]:
        """Join the ``__metadata__`` of the parts; where they differ, the first one's stays."""
        joined: dict[str, str] = {}
        for part in self.parts:
            joined = part.metadata | joined
        return joined

    @property
    def n_bytes(self) -> int:
        """Return the bytes of tensor data, headers not counted."""
        return sum(tensor.n_bytes for tensor in self.tensors.values())

    def config(self) -> dict[str, Any]:
        """Return config.json of a directory; an empty one without it, and for a single file."""
        path = self.path / "config.json"
        return json_object(read_text(path), str(path)) if os.path.isfile(path) else {}

    def auxiliary_files(self) -> list[Path]:
        """List the files to copy, relative to the directory: configuration, tokenizer and the like.

        Everything below the directory but weights of any format, their indexes, ``tallies.json``
        and what is hidden; nothing for a single file. Links to files count as files (hub caches
        consist of them), links to directories are not followed, a link to nothing raises
        ``InputError``.
        """
        if not os.path.isdir(self.path):
            return []
        files: list[Path] = []
        for parent, directories, names in os.walk(self.path, onerror=refuse_unreadable):
            directories[:] = [name for name in directories if not name.startswith(".")]
            files += [Path(parent, name) for name in names if is_auxiliary(name)]
        if self.left_out:  # ModelOpt's declaration of what the result is no longer
            files = [path for path in files if path.name != "hf_quant_config.json"]
        for path in files:
            if not os.path.exists(path):
                raise InputError(f"{path}: is a link to nothing; restore the file or remove it")
        return sorted(path.relative_to(self.path) for path in files if os.path.isfile(path))
