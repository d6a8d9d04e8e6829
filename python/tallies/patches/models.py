"""The two sides of a difference: models on disk, and dicts of arrays or tensors in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.files import refuse_undecodable
from ..checkpoint.tensors import TensorInfo
from ..engine.arrays import Array, is_torch, stored_shape, view
from ..engine.files import Place, PlanFiles
from ..engine.fingerprints import content, content_of, copy_out
from ..errors import InputError
from ..messages import show
from ..recipe.places import Places
from ..spec.dtypes import CODES_BY_SIZE, DTYPES, TABLE
from .manifest import Form

Source: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | Model"
"""A model: a path, a model of a hub, a dict of arrays or tensors, or another ``Model``."""

Write: TypeAlias = Callable[[bytes, int], object]

_NAMES: Final = {one.array_name: one.name for one in TABLE if one.array_name}


class Model(Protocol):
    """A model whose tensors are read as they are stored."""

    label: str
    """The model in messages."""

    @property
    def forms(self) -> dict[str, Form]:
        """The dtype and shape of each tensor, in the order of the names."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read."""
        ...

    def place(self, files: PlanFiles, name: str) -> tuple[Place, object]:
        """Return the place of a tensor's bit patterns, and what keeps it there."""
        ...

    def copy_out(self, name: str, write: Write) -> list[int]:
        """Hand over the bytes of a tensor, and return their content fingerprint."""
        ...

    def content(self, name: str) -> list[int]:
        """Return the content fingerprint of a tensor."""
        ...

    def small_files(self) -> dict[str, Path]:
        """Return the small files beside the weights, by their relative paths."""
        ...


def open_stored(text: str | os.PathLike[str], variant: str | None = None) -> Checkpoint:
    """Open a model with all tensors of its files as they are stored: scales are tensors too.

    Args:
        text: A path, or a model of a hub.
        variant: The variant of the weights to read where there are several.

    Raises:
        InputError: There is no such model, it is not well-formed, or has adapters on it.
        StorageError: A file cannot be read, or the hub fails.
    """
    if not isinstance(text, (str, os.PathLike)):
        raise InputError(
            f"model: found {type(text).__name__}, expected a path; write the model to disk first"
        )
    name, places = os.fspath(text), Places.of()
    if len(places.pieces(name)) > 1:
        raise InputError(
            f"{name}: is a model with adapters, whose tensors are stored nowhere; merge it first, "
            "or take the model alone"
        )
    path = places.local(name, variant or "")
    refuse_undecodable(path)
    return Checkpoint.open(path, variant=variant or "")


def open_side(source: Source, label: str, variant: str | None) -> Model:
    """Open one side of a difference.

    Args:
        source: The model.
        label: The name of a dict in messages.
        variant: The variant of the weights of a model on disk.

    Raises:
        InputError: The model is none.
        StorageError: A file cannot be read.
    """
    if isinstance(source, Mapping):
        return InMemory(label, source)
    if isinstance(source, (str, os.PathLike)):
        return OnDisk(open_stored(source, variant))
    if hasattr(source, "copy_out"):
        return source
    way_out = "expected a path, or a dict of numpy arrays or torch tensors"
    if hasattr(source, "state_dict"):
        way_out = "expected a path or a dict: give its state_dict()"
    elif isinstance(source, (list, tuple)):
        way_out = "expected a path or a dict: dict(...) makes one of pairs"
    raise InputError(f"{label}: found {type(source).__name__}, {way_out}")


class OnDisk:
    """A model on disk."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.label = checkpoint.label

    @property
    def forms(self) -> dict[str, Form]:
        """The dtype and shape of each tensor, in the order of the names."""
        return {name: (one.dtype, one.shape) for name, one in self.checkpoint.tensors.items()}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read."""
        return self.checkpoint.files

    def place(self, files: PlanFiles, name: str) -> tuple[Place, object]:
        """Return the place of a tensor's bit patterns, and what keeps it there."""
        return files.bits_place(self._tensor(name)), None

    def copy_out(self, name: str, write: Write) -> list[int]:
        """Hand over the bytes of a tensor, and return their content fingerprint."""
        return copy_out(self._tensor(name), write)

    def content(self, name: str) -> list[int]:
        """Return the content fingerprint of a tensor."""
        return content(self._tensor(name))

    def small_files(self) -> dict[str, Path]:
        """Return the small files beside the weights, by their relative paths."""
        return {path.as_posix(): file for path, file in self.checkpoint.small_files().items()}

    def _tensor(self, name: str) -> TensorInfo:
        return self.checkpoint.tensors[name]


class InMemory:
    """A dict of numpy arrays or torch tensors, each of which is copied to the CPU if need be."""

    files: tuple[Path, ...] = ()

    def __init__(self, label: str, tensors: Mapping[str, Any]) -> None:
        self.label = label
        self._tensors = tensors
        self.forms = {name: self._form(name) for name in sorted(tensors, key=self._checked)}

    def leave_out(self, names: set[str]) -> None:
        """Take the model without some of its tensors."""
        self.forms = {name: form for name, form in self.forms.items() if name not in names}

    def _checked(self, name: object) -> str:
        if not isinstance(name, str):
            raise InputError(f"{self.label}: found the key {show(name)}, expected a tensor's name")
        return name

    def _form(self, name: str) -> Form:
        value = self._tensors[name]
        dtype = getattr(value, "dtype", None)
        text = str(dtype).removeprefix("torch.") if is_torch(value) else getattr(dtype, "name", "")
        if text not in _NAMES:
            view(name, value)  # refuses what is no array of a dtype that can be stored
            raise InputError(f"{self.label}: tensor {show(name)}: dtype {text} cannot be stored")
        return (_NAMES[text], stored_shape(_NAMES[text], value.shape))

    def place(self, files: PlanFiles, name: str) -> tuple[Place, object]:
        """Return the place of a tensor's bit patterns, and what keeps it there."""
        found = self._view(name)
        return (-1, found.address, CODES_BY_SIZE[DTYPES[self.forms[name][0]]]), found

    def copy_out(self, name: str, write: Write) -> list[int]:
        """Hand over the bytes of a tensor, and return their content fingerprint."""
        data = self._bytes(name)
        write(data, 0)
        return content_of(data)

    def content(self, name: str) -> list[int]:
        """Return the content fingerprint of a tensor."""
        return content_of(self._bytes(name))

    def small_files(self) -> dict[str, Path]:
        """Return the small files beside the weights: there are none."""
        return {}

    def _view(self, name: str) -> Array:
        return view(name, self._tensors[name])

    def _bytes(self, name: str) -> bytes:
        import ctypes

        found = self._view(name)
        n_bytes = found.n_elements * DTYPES[self.forms[name][0]]
        return ctypes.string_at(found.address, n_bytes) if n_bytes else b""
