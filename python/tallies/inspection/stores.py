"""What is in a store, and whether it is intact."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..engine.fingerprints import contents, tensor_fingerprint
from ..engine.limits import n_threads
from ..errors import InputError
from ..store.manifest import NAME, Manifest, open_files


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether a directory is a store, damaged or not."""
    return os.path.isfile(Path(path) / NAME)


def inspect_store(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a store holds, as plain data; reads headers only."""
    root = Path(path)
    manifest = Manifest.read(root)
    files = open_files(root, manifest)
    n_bytes = {file: (root / file).stat().st_size for file in files}
    return {
        "path": str(root),
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
    """Read all of a store and compare it with its checksums; InputError names what is damaged."""
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
