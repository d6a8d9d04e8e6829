"""What is in a checkpoint: tensors, sizes and fingerprints."""

from __future__ import annotations

import os
from typing import Any

from ..checkpoint.checkpoint import Checkpoint
from ..engine.fingerprints import contents, model_fingerprint, tensor_fingerprint
from ..engine.limits import n_threads


def inspect(
    path: str | os.PathLike[str], *, fingerprints: bool = True, threads: int | None = None
) -> dict[str, Any]:
    """The tensors of a checkpoint as plain data, by name.

    With ``fingerprints`` all data is read, at about the speed of the disk; that of the whole
    checkpoint is the one that reports of merges name. Raises InputError for a damaged checkpoint.
    """
    checkpoint = Checkpoint.open(path)
    tensors = list(checkpoint.tensors.values())
    prints: dict[str, str] = {}
    if fingerprints:
        prints = {
            tensor.name: tensor_fingerprint(tensor, lanes)
            for tensor, lanes in zip(tensors, contents(tensors, n_threads(threads)), strict=True)
        }
    by_dtype: dict[str, int] = {}
    for tensor in tensors:
        by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + tensor.n_elements
    return {
        "path": str(checkpoint.path),
        "files": {
            os.path.relpath(file, checkpoint.path if checkpoint.path.is_dir() else file.parent): (
                file.stat().st_size
            )
            for file in checkpoint.files
        },
        "n_tensors": len(tensors),
        "n_elements": sum(tensor.n_elements for tensor in tensors),
        "n_bytes": checkpoint.n_bytes,
        "elements_by_dtype": by_dtype,
        "metadata": checkpoint.metadata,
        "fingerprint": model_fingerprint(prints) if fingerprints else None,
        "tensors": {
            tensor.name: {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "n_bytes": tensor.n_bytes,
                "file": tensor.path.name,
                "fingerprint": prints.get(tensor.name),
            }
            for tensor in tensors
        },
    }
