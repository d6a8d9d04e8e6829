"""Describes a store, and checks whether it is intact."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..engine.fingerprints import contents, tensor_fingerprint
from ..engine.limits import n_threads
from ..errors import InputError
from ..store.manifest import NAME, Manifest, open_files


def is_store(path: str | os.PathLike[str]) -> bool:
    """Return whether a directory is a store, damaged or not."""
    return os.path.isfile(Path(path) / NAME)


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
    root = Path(path)
    manifest = Manifest.read(root)
    files = open_files(root, manifest)
    n_bytes = {file: (root / file).stat().st_size for file in files}
    return {
        "path": str(root),
        "kind": "store",
        "codec": manifest.codec,
        "parameters": manifest.parameters,
        "base": {"path": manifest.base_path, "fingerprint": manifest.base_fingerprint},
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
                "n_bytes": sum(
                    n_bytes[file]
                    for file in ([task.file] if task.file else task.candidates.values())
                ),
            }
            for name, task in manifest.tasks.items()
        },
        "tensors": {
            name: {"dtype": tensor.dtype, "shape": list(tensor.shape), "kind": tensor.kind}
            for name, tensor in manifest.tensors.items()
        },
    }


def verify_store(path: str | os.PathLike[str], *, threads: int | None = None) -> dict[str, Any]:
    """Read all of a store and compare it with its checksums.

    Args:
        path: The store.
        threads: The number of threads; by default, all cores.

    Returns:
        ``path``, ``kind``, and the number of files, tensors and bytes.

    Raises:
        InputError: A tensor or a file is damaged; the message names it.
        StorageError: A file cannot be read.
    """
    root = Path(path)
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
    return {
        "path": str(root),
        "kind": "store",
        "files": len(files),
        "tensors": len(tensors),
        "n_bytes": sum(one.n_bytes for _, one in tensors),
    }
