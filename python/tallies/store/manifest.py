"""``store.json``: what a store holds, of which base, and how to tell that it is intact."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from .._version import __version__
from ..checkpoint.safetensors import TensorInfo, read_header
from ..errors import InputError, StorageError
from ..messages import show

NAME: Final = "store.json"
SHARED: Final = "shared.safetensors"
STORED: Final = ("masked", "factored", "dense")
"""Kinds of tensors that the files of tasks hold."""
FORMAT: Final = "tallies-store"
VERSION: Final = 1


@dataclass
class Tensor:
    """A tensor of the base. ``kind`` says where that of a task comes from.

    ``masked``, ``factored`` and ``dense`` are in the store, ``frozen`` and ``copied`` are the
    base's (no task changed it; integers and booleans), ``tied`` has the values of ``tied_to``.
    """

    dtype: str
    shape: tuple[int, ...]
    kind: str
    fingerprint: str
    """Of the base's dtype, shape and content."""
    tied_to: str | None = None


@dataclass
class Task:
    """One expert: where it came from, and its files, relative to the store.

    ``candidates`` has by lambda the masks between which a choice is still to be made; then there is
    no ``file`` yet.
    """

    source: str
    fingerprint: str
    scale: float
    mask_lambda: float | None
    n_set: dict[str, int]
    """Bits set in the mask, or in that of each candidate; or values kept."""
    file: str | None = None
    candidates: dict[str, str] = field(default_factory=dict)


@dataclass
class Manifest:
    """The content of ``store.json``."""

    codec: str
    parameters: dict[str, Any]
    base_path: str
    base_fingerprint: str
    tensors: dict[str, Tensor]
    tasks: dict[str, Task]
    checksums: dict[str, dict[str, str]]
    """By file and tensor, sixteen hexadecimal digits over dtype, shape and content."""

    def of_kind(self, *kinds: str) -> list[str]:
        """The names of the tensors of these kinds, in the order of their bytes."""
        return [name for name, tensor in self.tensors.items() if tensor.kind in kinds]

    def files(self) -> list[str]:
        """All files of the store but this one."""
        return list(self.checksums)

    def to_json(self) -> str:
        """The text of ``store.json``."""
        data: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "tallies": __version__,
            "codec": self.codec,
            "parameters": self.parameters,
            "base": {"path": self.base_path, "fingerprint": self.base_fingerprint},
            "tasks": {name: asdict(task) for name, task in self.tasks.items()},
            "tensors": {name: asdict(tensor) for name, tensor in self.tensors.items()},
            "checksums": self.checksums,
        }
        data["checksum"] = _checksum(data)
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"

    def write(self, store: Path) -> None:
        """Put it in place of the one that is there, at once."""
        new = store / f".{NAME}.new"
        try:
            new.write_text(self.to_json(), encoding="utf-8")
            os.replace(new, store / NAME)
        except OSError as error:
            raise StorageError(f"{new}: cannot be written: {error.strerror or error}") from None

    @classmethod
    def read(cls, store: Path) -> Manifest:
        """That of a store; InputError when there is none, or none that this version reads."""
        path = store / NAME
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"{store}: is not a store: found no {NAME}; name a directory that 'tallies pack' "
                "wrote"
            ) from None
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: is not JSON: {error}; restore the file") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise InputError(f'{path}: expected "format": {FORMAT!r}; this is another file')
        version = data.get("version")
        if isinstance(version, int) and version > VERSION:
            raise InputError(
                f"{path}: has format version {show(version)}, and this is tallies {__version__}, "
                f"which reads versions up to {VERSION}; upgrade tallies"
            )
        expected, found = data.pop("checksum", None), _checksum(data)
        if found != expected:
            raise InputError(
                f"{path}: is damaged: its checksum is {found}, expected {show(expected)}; restore "
                "the file"
            )
        try:
            return cls._from_data(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            kind = type(error).__name__
            raise InputError(f"{path}: is damaged ({kind}: {error}); restore the file") from None

    @classmethod
    def _from_data(cls, data: Mapping[str, Any]) -> Manifest:
        return cls(
            codec=str(data["codec"]),
            parameters=dict(data["parameters"]),
            base_path=str(data["base"]["path"]),
            base_fingerprint=str(data["base"]["fingerprint"]),
            tensors={
                name: Tensor(**{**one, "shape": tuple(one["shape"])})
                for name, one in data["tensors"].items()
            },
            tasks={name: Task(**one) for name, one in data["tasks"].items()},
            checksums={file: dict(sums) for file, sums in data["checksums"].items()},
        )


def _checksum(data: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits over the content of ``store.json``, however it is laid out."""
    text = json.dumps(data, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def open_files(store: Path, manifest: Manifest) -> dict[str, dict[str, TensorInfo]]:
    """By file, the tensors of a store; InputError unless they are those that it should hold."""
    found = {}
    for file, checksums in manifest.checksums.items():
        path = store / file
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise InputError(f"{store / NAME}: names {show(file)}, which lies outside the store")
        if not path.is_file():
            raise InputError(f"{path}: is missing from the store; restore it, or pack again")
        tensors = {tensor.name: tensor for tensor in read_header(path)[0]}
        if tensors.keys() != checksums.keys():
            odd = sorted(tensors.keys() ^ checksums.keys())[0]
            where = "lacks" if odd in checksums else "has"
            raise InputError(
                f"{path}: {where} tensor {show(odd)}, unlike {NAME} says; restore the file"
            )
        found[file] = tensors
    return found
