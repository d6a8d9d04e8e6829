"""How many tasks use each parameter, from the masks of a store."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.data import chunks
from ..checkpoint.safetensors import TensorInfo
from ..errors import InputError
from .codecs import registry as codecs
from .codecs._codec import Mask
from .manifest import Manifest, open_files


def consensus(store: str | os.PathLike[str]) -> dict[str, Any]:
    """How many parameters the masks of 0, 1, ... N tasks contain, per tensor and in all.

    What no task uses is called catastrophic, what one alone uses selfish (Wang et al. 2024). Only
    masked tensors are counted. InputError where masks do not say what a task uses (bitdelta), or
    candidates are still to be chosen from.
    """
    root = Path(store)
    manifest = Manifest.read(root)
    mask = codecs.get(manifest.codec).mask
    if mask is None:
        raise InputError(f"{root}: {manifest.codec} keeps no masks; nothing to count")
    if mask is Mask.SIGN:
        raise InputError(f"{root}: the masks of {manifest.codec} are signs; nothing to count")
    undecided = [name for name, task in manifest.tasks.items() if task.file is None]
    if undecided:
        raise InputError(
            f"{root}: task {undecided[0]!r} has several candidates; keep one first with 'tallies "
            f"choose {root} {undecided[0]} LAMBDA'"
        )
    files = open_files(root, manifest)
    masks = [files[task.file] for task in manifest.tasks.values() if task.file is not None]
    by_tensor = {
        name: _counts(name, manifest.tensors[name].shape, masks)
        for name in manifest.of_kind("masked")
    }
    totals = [sum(row[n] for row in by_tensor.values()) for n in range(len(masks) + 1)]
    return {
        "path": str(root),
        "tasks": list(manifest.tasks),
        "n_parameters": sum(totals),
        "used_by": totals,
        "tensors": by_tensor,
    }


def _counts(
    name: str, shape: Sequence[int], masks: Sequence[Mapping[str, TensorInfo]]
) -> list[int]:
    """How many elements of a tensor exactly 0, 1, ... N of the masks contain."""
    import math

    import numpy as np

    from ..kernels.masks import consensus_mask

    left = math.prod(shape)
    at_least = [left] + [0] * len(masks)
    # A task that left the tensor alone has no mask of it.
    readers = [chunks(mask[name]) for mask in masks if name in mask]
    for parts in zip(*readers, strict=True):
        arrays = [np.frombuffer(part, np.uint8) for part in parts]
        n = min(left, 8 * len(parts[0]))
        for k in range(1, len(arrays) + 1):
            found = consensus_mask(arrays, n, k).tobytes()
            at_least[k] += int.from_bytes(found, "little").bit_count()
        left -= n
    return [a - b for a, b in zip(at_least, [*at_least[1:], 0], strict=True)]
