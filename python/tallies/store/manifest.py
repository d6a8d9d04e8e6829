"""``store.json``: the tasks of a store, its base, and checksums of everything in it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from .._version import __version__
from ..checkpoint.json_text import object_checksum
from ..checkpoint.layout import tensor_bytes
from ..checkpoint.safetensors import read_header
from ..checkpoint.tensors import TensorInfo
from ..errors import InputError, StorageError
from ..messages import show
from .names import check_task_names
from .small_files import SmallFile, SmallFiles, own_files, refuse_outside
from .tasks import Task, require_form, require_paths, require_texts

NAME: Final = "store.json"
SHARED: Final = "shared.safetensors"
DENSE: Final = "dense"
"""The kind of tensors that the files of tasks hold as they are."""
_NOT_STORED: Final = ("frozen", "copied", "tied")
FORMAT: Final = "tallies-store"
VERSION: Final = 1


@dataclass
class Tensor:
    """A tensor of the base; ``kind`` says where a task's tensor comes from.

    The store has tensors of the kind that the codec's family encodes (``masked``, ``factored``),
    and ``dense`` ones. Tensors that no task changed (``frozen``), integers and booleans
    (``copied``) are the base's. A ``tied`` tensor has the values of ``tied_to``.
    """

    dtype: str
    shape: tuple[int, ...]
    kind: str
    fingerprint: str
    """Fingerprint of the base's dtype, shape and content."""
    tied_to: str | None = None

    def __post_init__(self) -> None:
        require_texts((self.dtype, self.kind, self.fingerprint, self.tied_to or ""))
        require_form(self.dtype, self.shape)

    def form(self, name: str) -> TensorInfo:
        """Return the tensor of the base of this name, without a place."""
        n_bytes = tensor_bytes((name, self.dtype, self.shape))
        return TensorInfo(name, self.dtype, self.shape, Path(), 0, n_bytes)

    @property
    def is_stored(self) -> bool:
        """True if the files of tasks hold the tensor."""
        return self.kind not in _NOT_STORED

    @property
    def is_coded(self) -> bool:
        """True if the files of tasks hold the tensor as the codec's family encodes it."""
        return self.is_stored and self.kind != DENSE


@dataclass
class Manifest:
    """The content of ``store.json``."""

    codec: str
    parameters: dict[str, Any]
    base_path: str
    """Nothing where the tasks are checkpoints by themselves."""
    base_fingerprint: str
    tensors: dict[str, Tensor]
    tasks: dict[str, Task]
    checksums: dict[str, dict[str, str]]
    """By file and tensor, sixteen hexadecimal digits over dtype, shape and content."""
    small_files: dict[str, SmallFiles] = field(default_factory=dict)
    """By task; a task of an older store is not in it, and takes the files of the base."""
    variant: str | None = None
    """The variant of the weights that was asked for, of base and experts alike."""
    recorded_base: str = field(default="", compare=False)
    """The base's path as ``store.json`` had it when it was read, whatever was named since."""

    @property
    def has_base(self) -> bool:
        """False if the tasks are checkpoints by themselves."""
        return bool(self.base_path)

    @property
    def stored(self) -> list[str]:
        """Names of the tensors that the files of tasks hold."""
        return [name for name, tensor in self.tensors.items() if tensor.is_stored]

    @property
    def coded(self) -> list[str]:
        """Names of the tensors that the codec's family encodes."""
        return [name for name, tensor in self.tensors.items() if tensor.is_coded]

    def files(self) -> list[str]:
        """Return all files of the store but this one."""
        own = [own_files(task, files) for task, files in self.small_files.items()]
        return [*self.checksums, *(file for files in own for file in files)]

    def to_json(self) -> str:
        """Return the text of ``store.json``."""
        data: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "tallies": __version__,
            "codec": self.codec,
            "parameters": self.parameters,
            "base": {"path": self.base_path, "fingerprint": self.base_fingerprint},
            **({} if self.variant is None else {"variant": self.variant}),
            "tasks": {name: task.to_json_dict() for name, task in self.tasks.items()},
            "tensors": {name: asdict(tensor) for name, tensor in self.tensors.items()},
            "checksums": self.checksums,
            "small_files": {
                task: {name: asdict(file) for name, file in files.items()}
                for task, files in self.small_files.items()
            },
        }
        data["checksum"] = object_checksum(data)
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"

    def write(self, store: Path) -> None:
        """Replace the manifest of a store at once.

        Raises:
            StorageError: The file cannot be written.
        """
        new = store / f".{NAME}.new"
        try:
            new.write_text(self.to_json(), encoding="utf-8")
            os.replace(new, store / NAME)
        except OSError as error:
            raise StorageError(f"{new}: cannot be written: {error.strerror or error}") from None

    @classmethod
    def read(cls, store: Path) -> Manifest:
        """Read the manifest of a store.

        Raises:
            InputError: The directory has no manifest, a damaged one, or one of a newer format.
            StorageError: The file cannot be read.
        """
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
        expected, found = data.pop("checksum", None), object_checksum(data)
        if found != expected:
            raise InputError(
                f"{path}: is damaged: its checksum is {found}, expected {show(expected)}; restore "
                "the file"
            )
        try:
            return cls._from_data(data)
        except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
            kind = type(error).__name__
            raise InputError(f"{path}: is damaged ({kind}: {error}); restore the file") from None

    @classmethod
    def _from_data(cls, data: Mapping[str, Any]) -> Manifest:
        found = cls(
            codec=str(data["codec"]),
            parameters=dict(data["parameters"]),
            base_path=str(data["base"]["path"]),
            base_fingerprint=str(data["base"]["fingerprint"]),
            recorded_base=str(data["base"]["path"]),
            variant=data.get("variant"),
            tensors={
                name: Tensor(**{**one, "shape": tuple(one["shape"])})
                for name, one in data["tensors"].items()
            },
            tasks={name: Task.from_json_dict(one) for name, one in data["tasks"].items()},
            checksums={file: dict(sums) for file, sums in data["checksums"].items()},
            small_files={
                task: {name: SmallFile(**file) for name, file in files.items()}
                for task, files in data.get("small_files", {}).items()
            },
        )
        require_paths([found.base_path, *found.checksums, *found.small_files])
        check_task_names(found.tasks)
        for task, files in found.small_files.items():
            if task not in found.tasks:
                raise ValueError(f"has small files of {show(task)}, which is no task")
            for name in files:
                refuse_outside(name)
        for name, one in found.tensors.items():
            if one.tied_to is None:
                continue
            if one.tied_to not in found.tensors:
                raise ValueError(
                    f"tensor {show(name)} is tied to {show(one.tied_to)}, which is none"
                )
            other = found.tensors[one.tied_to]
            if other.tied_to is not None or (other.dtype, other.shape) != (one.dtype, one.shape):
                raise ValueError(
                    f"tensor {show(name)} is tied to {show(one.tied_to)}, which is tied itself, or "
                    "has another dtype or shape"
                )
        return found


def open_files(store: Path, manifest: Manifest) -> dict[str, dict[str, TensorInfo]]:
    """Read the headers of all files of a store.

    Returns:
        By file, the tensors by name.

    Raises:
        InputError: A file is missing, or holds other tensors than the manifest says.
    """
    found = {}
    for file, checksums in manifest.checksums.items():
        path = store / file
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise InputError(f"{store / NAME}: names {show(file)}, which lies outside the store")
        if Path(file).as_posix() != file:
            raise InputError(
                f"{store / NAME}: names {show(file)}, expected {show(Path(file).as_posix())}; "
                "restore the manifest"
            )
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
    for name, task in manifest.tasks.items():
        for file in task.files() - found.keys():
            raise InputError(
                f"{store / NAME}: task {show(name)} has tensors in {show(file)}, which is no file "
                "of the store; restore the manifest"
            )
    return found
