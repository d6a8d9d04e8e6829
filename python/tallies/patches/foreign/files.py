"""Writes small files of safetensors for other tools."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ...checkpoint.destination import Destination
from ...checkpoint.layout import Entry, header


def write_file(
    out: str | os.PathLike[str],
    base: str | os.PathLike[str],
    tensors: Mapping[str, tuple[str, npt.NDArray[Any]]],
    metadata: Mapping[str, str],
    overwrite: bool,
) -> Path:
    """Write a file of flat tensors, whole or not at all.

    Args:
        out: The file.
        base: The model that it must not touch.
        tensors: By name, the dtype and the values.
        metadata: The metadata of the header.
        overwrite: Replace an earlier file.

    Returns:
        The path of the file.

    Raises:
        InputError: The file may not be written there.
        StorageError: Writing fails.
    """
    destination = Destination(out, [Path(base)], overwrite, of_weights=True)
    with destination.writing(resume=False) as directory:
        write_tensors(directory / destination.path.name, tensors, metadata)
    return destination.path


def write_tensors(
    path: Path, tensors: Mapping[str, tuple[str, npt.NDArray[Any]]], metadata: Mapping[str, str]
) -> None:
    """Write flat tensors, by dtype and values, to a new file."""
    entries: list[Entry] = [(name, dtype, one.shape) for name, (dtype, one) in tensors.items()]
    head, offsets = header(entries, metadata)
    with open(path, "wb") as file:
        file.write(head)
        for (_, one), offset in zip(tensors.values(), offsets, strict=True):
            file.seek(offset)
            file.write(one.tobytes())
