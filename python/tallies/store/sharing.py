"""Tensors that several tasks have alike, which one file has for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Final, TypeAlias

from ..checkpoint.data import chunks, same_tensor
from ..checkpoint.layout import header
from ..checkpoint.tensors import TensorInfo
from ..errors import StorageError
from .manifest import Manifest
from .tasks import Task

PartNames: TypeAlias = Callable[[str], list[str]]
"""Returns the entries that encode a tensor of a name, as ``Family.parts``."""

_KEPT: Final = "kept"
"""The folder of files that no task has as its own any more."""


def with_borrowed(
    files: Mapping[str, Mapping[str, TensorInfo]],
    file: str,
    borrowed: Mapping[str, str],
    part_names: PartNames,
) -> Mapping[str, TensorInfo]:
    """Return the tensors of a task's file, and the encodings that it has in other files.

    Args:
        files: By file of the store, its tensors.
        file: The task's own file.
        borrowed: By name of a tensor, the other file.
        part_names: Names the entries of a tensor.
    """
    if not borrowed:
        return files[file]
    return {
        **files[file],
        **{
            part: one
            for name, other in borrowed.items()
            for part, one in parts_of(files[other], [name], part_names).items()
        },
    }


def parts_of(
    tensors: Mapping[str, TensorInfo], names: Iterable[str], part_names: PartNames
) -> dict[str, TensorInfo]:
    """Return all entries of a file that encode tensors of these names."""
    wanted = {part for name in names for part in part_names(name)}
    return {part: one for part, one in tensors.items() if part in wanted}


def write_some(tensors: Mapping[str, TensorInfo], path: Path) -> None:
    """Write a file with some tensors of another.

    Raises:
        StorageError: Reading or writing fails.
    """
    entries = [(name, one.dtype, one.shape) for name, one in tensors.items()]
    head, offsets = header(entries)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.write(head)
            for one, offset in zip(tensors.values(), offsets, strict=True):
                file.seek(offset)
                for chunk in chunks(one):
                    file.write(chunk)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from None


def borrow(
    manifest: Manifest,
    files: Mapping[str, Mapping[str, TensorInfo]],
    added: Manifest,
    added_files: Mapping[str, Mapping[str, TensorInfo]],
    work: Path,
    part_names: PartNames,
) -> None:
    """Take the tensors out of the file of a new task that a store has already.

    Args:
        manifest: The manifest of the store.
        files: The tensors of its files.
        added: The manifest of a store of the new task alone, which changes.
        added_files: The tensors of that store's files.
        work: The directory of that store, whose file is written anew.
        part_names: Names the entries of a tensor.

    Raises:
        StorageError: Reading or writing fails.
    """
    ((task, stated),) = added.tasks.items()
    assert stated.file is not None
    own = added_files[stated.file]
    borrowed = {}
    for name in sorted(own):
        parts = parts_of(own, [name], part_names)
        if len(parts) < len(part_names(name)):
            continue
        for file, others in files.items():
            alike = parts_of(others, [name], part_names)
            if alike.keys() == parts.keys() and all(
                added.checksums[stated.file][part] == manifest.checksums[file][part]
                and same_tensor(one, alike[part])
                for part, one in parts.items()
            ):
                borrowed[name] = file
                break
    if not borrowed:
        return
    gone = parts_of(own, borrowed, part_names)
    rest = {name: one for name, one in own.items() if name not in gone}
    new = work / f"{stated.file}.new"
    write_some(rest, new)
    new.replace(work / stated.file)
    checksums = added.checksums[stated.file]
    added.checksums[stated.file] = {name: checksums[name] for name in rest}
    added.tasks[task] = replace(stated, borrowed=borrowed)


def release(
    root: Path,
    manifest: Manifest,
    files: Mapping[str, Mapping[str, TensorInfo]],
    gone: Task,
    part_names: PartNames,
) -> list[str]:
    """Let go of the files of a task that is no longer in a manifest.

    Tensors in its file that other tasks have alike are written to another file first.

    Args:
        root: The directory of the store.
        manifest: The manifest without the task, which changes.
        files: The tensors of the store's files.
        gone: The task.
        part_names: Names the entries of a tensor.

    Returns:
        The files that no task needs.

    Raises:
        StorageError: Reading or writing fails.
    """
    own = set(gone.candidates.values()) if gone.file is None else {gone.file}
    for file in own:
        needed = {
            name
            for task in manifest.tasks.values()
            for name, other in task.borrowed.items()
            if other == file
        }
        if not needed:
            continue
        kept = next(
            name
            for name in (f"{_KEPT}/{number:05d}.safetensors" for number in count(1))
            if name not in manifest.checksums and not (root / name).exists()
        )
        parts = parts_of(files[file], needed, part_names)
        write_some(parts, root / kept)
        checksums = manifest.checksums[file]
        manifest.checksums[kept] = {part: checksums[part] for part in parts}
        for name, task in manifest.tasks.items():
            moved = {one: kept if other == file else other for one, other in task.borrowed.items()}
            manifest.tasks[name] = replace(task, borrowed=moved)
    used = {file for task in manifest.tasks.values() for file in task.files()}
    return [file for file in gone.files() if file not in used]
