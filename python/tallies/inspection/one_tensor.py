"""Describes one tensor of a checkpoint: its place, and the numbers of its values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoint.checkpoint import Checkpoint
from ..engine.fingerprints import content, tensor_fingerprint
from ..errors import InputError
from ..messages import unknown_of_many
from .values import values_of


def below(file: Path, root: Path) -> str:
    """Return the path of a weight file below its model; a whole one for a file of an adapter."""
    if not file.is_relative_to(root):
        return str(file)
    return file.relative_to(root).as_posix() if file != root else file.name


def checkpoint_tensor(checkpoint: Checkpoint, name: str, *, with_data: bool) -> dict[str, Any]:
    """Describe a tensor of a checkpoint as plain data.

    Args:
        checkpoint: The checkpoint, with its adapters.
        name: The name of the tensor.
        with_data: Read the tensor for its fingerprint and its values.

    Returns:
        ``path``, ``kind`` (``tensor``), ``name``, ``dtype``, ``shape``, ``n_elements``,
        ``n_bytes``, ``file``, ``offset`` (its first byte there), ``fingerprint``, and ``values``:
        None for integers, and where the data are not read.

    Raises:
        InputError: There is no such tensor.
        StorageError: The file cannot be read.
    """
    if name not in checkpoint.tensors:
        known = unknown_of_many(name, checkpoint.tensors)
        raise InputError(f"{checkpoint.label}: tensor {known}")
    one = checkpoint.tensors[name]
    values = values_of(one) if with_data else None
    return {
        "path": checkpoint.label,
        "kind": "tensor",
        "name": name,
        "dtype": one.dtype,
        "shape": list(one.shape),
        "n_elements": one.n_elements,
        "n_bytes": one.n_bytes,
        "file": below(one.path, checkpoint.path),
        "offset": one.offset,
        "fingerprint": tensor_fingerprint(one, content(one)) if with_data else None,
        "values": values.to_json_dict() if values else None,
    }
