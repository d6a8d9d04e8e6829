"""Describes a store, and checks whether it is intact."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoint.json_text import refuse_unreadable
from ..engine.fingerprints import contents, tensor_fingerprint
from ..engine.limits import n_threads
from ..errors import InputError
from ..messages import unknown
from ..recipe.adapters import with_base
from ..recipe.places import Places, local_path
from ..store import Store
from ..store.manifest import NAME, Manifest, open_files
from ..store.origins import base_place, resolved, root_of
from ..store.small_files import check_small_files, own_bytes, own_files
from .checkpoints import inspect


def is_store(path: str | os.PathLike[str]) -> bool:
    """Return whether a directory is a store, damaged or not."""
    return os.path.isfile(root_of(path) / NAME)


def inspect_store(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe a store as plain data; only headers are read.

    Args:
        path: The store.

    Returns:
        ``path``, ``kind``, ``codec``, ``parameters``, ``base``, sizes of files, ``tasks`` and
        ``tensors`` by name.

    Raises:
        InputError: The directory is no store, or a damaged one.
        StorageError: A file cannot be read.
    """
    root = root_of(path)
    manifest = Manifest.read(root)
    files = open_files(root, manifest)
    small = [file for task, own in manifest.small_files.items() for file in own_files(task, own)]
    n_bytes = {file: _size(root / file) for file in (*files, *small)}
    return {
        "path": str(root),
        "kind": "store",
        "codec": manifest.codec,
        "parameters": manifest.parameters,
        "base": {"path": manifest.base_path, "fingerprint": manifest.base_fingerprint}
        if manifest.has_base
        else None,
        "n_bytes": sum(n_bytes.values()),
        "files": n_bytes,
        "tasks": {
            name: {
                "source": task.source,
                "fingerprint": task.fingerprint,
                "scale": task.scale,
                "lambda": task.mask_lambda,
                "n_set": task.n_set,
                "candidates": list(task.candidates),
                **(
                    {
                        "tensors": {
                            tensor: {"dtype": dtype, "shape": list(shape)}
                            for tensor, (dtype, shape) in task.forms.items()
                        },
                        "lacks": list(task.lacks),
                    }
                    if task.forms or task.lacks
                    else {}
                ),
                "n_bytes": sum(
                    n_bytes[file]
                    for file in ([task.file] if task.file else task.candidates.values())
                ),
                "n_small_bytes": own_bytes(manifest.small_files.get(name, {})),
                "small_files": {
                    file: "base" if one.in_base else "store"
                    for file, one in manifest.small_files.get(name, {}).items()
                },
            }
            for name, task in manifest.tasks.items()
        },
        "tensors": {
            name: {"dtype": tensor.dtype, "shape": list(tensor.shape), "kind": tensor.kind}
            for name, tensor in manifest.tensors.items()
        },
    }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        refuse_unreadable(error, path)


def verify_store(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    base: str | os.PathLike[str] | None = None,
    tasks: Mapping[str, str | os.PathLike[str]],
) -> dict[str, Any]:
    """Read all of a store and compare it with its checksums.

    Args:
        path: The store.
        threads: The number of threads; by default, all cores.
        base: A base to compare with the one that the store was packed from.
        tasks: Experts to compare with those that were packed, by the names of their tasks.

    Returns:
        ``path``, ``kind``, the number of files, tensors and bytes, and ``base_missing``: for a
        store whose base is not where the store names it, what to do; else None.

    Raises:
        InputError: A tensor or a file is damaged; the message names it.
        StorageError: A file cannot be read.
    """
    root = root_of(path)
    manifest = Manifest.read(root)
    files = open_files(root, manifest)
    tensors = [(file, one) for file, row in files.items() for one in row.values()]

    lanes = contents([one for _, one in tensors], n_threads(threads))
    for (file, one), sums in zip(tensors, lanes, strict=True):
        found, expected = tensor_fingerprint(one, sums), manifest.checksums[file][one.name]
        if found != expected:
            raise InputError(
                f"{root / file}: tensor {one.name!r} is damaged: its checksum is {found}, "
                f"expected {expected}; restore the file, or pack again"
            )
    small = [
        place
        for task, own in manifest.small_files.items()
        for place in check_small_files(root, None, task, own).values()
    ]
    missing = None
    if base is not None:
        Store.open(root, base)
    else:
        try:
            base_place(root, manifest)
        except InputError as error:
            missing = str(error)
    for task, expert in tasks.items():
        _compare_expert(root, manifest, task, expert)
    return {
        "path": str(root),
        "kind": "store",
        "files": len(files) + len(small),
        "tensors": len(tensors),
        "n_bytes": sum(one.n_bytes for _, one in tensors) + sum(map(os.path.getsize, small)),
        "base_missing": missing,
    }


def _compare_expert(
    root: Path, manifest: Manifest, task: str, expert: str | os.PathLike[str]
) -> None:
    """Raise InputError unless an expert is the one that a task was packed from."""
    if task not in manifest.tasks:
        raise InputError(f"{root}: task {unknown(task, manifest.tasks)}")
    if not manifest.tasks[task].is_whole:
        return  # its fingerprint is of the tensors that base and expert share
    found, expected = _fingerprint(root, manifest, expert), manifest.tasks[task].fingerprint
    if found != expected:
        raise InputError(
            f"{expert}: is not the expert that task {task!r} of {root} was packed from: its "
            f"fingerprint is {found}, expected {expected}"
        )


def _fingerprint(root: Path, manifest: Manifest, expert: str | os.PathLike[str]) -> str | None:
    """Return the fingerprint of an expert, which may be a model with adapters."""
    places = Places.of()
    text = with_base(os.fspath(expert), places, resolved(manifest.base_path, root))
    local_path(text, manifest.variant or "")  # the data, which inspect does not download
    found = inspect(text, variant=manifest.variant).get("fingerprint")
    return None if found is None else str(found)
