"""Counts the tasks that use each parameter, from the masks of a store."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.data import chunks
from ..checkpoint.tensors import TensorInfo
from ..errors import InputError
from .families.family import refuse_other
from .families.registry import family_of
from .manifest import Manifest, open_files
from .opened import Store
from .origins import root_of


def consensus(
    store: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Count the parameters that the masks of 0, 1, ... N tasks contain.

    A parameter that no task uses is called catastrophic, a parameter of one task alone selfish
    (Wang et al. 2024). Tensors without masks are not counted.

    Args:
        store: The directory of the store.
        base: A base to compare with the store's, by its headers; the counts need none.

    Returns:
        ``used_by``, the counts over all masked tensors, ``tensors``, the counts by tensor, and
        ``path``, ``tasks`` and ``n_parameters``.

    Raises:
        InputError: The codec keeps no masks, or masks of signs; a task has several candidates; or
            the base is another one.
        StorageError: A mask cannot be read.
    """
    root = root_of(store)
    manifest = Manifest.read(root)
    family = family_of(manifest.codec, manifest.parameters)
    why_not = family.why_not_counted()
    if why_not is not None:
        raise InputError(f"{root}: {why_not}; nothing to count")
    undecided = [name for name, task in manifest.tasks.items() if task.file is None]
    if undecided:
        raise InputError(
            f"{root}: task {undecided[0]!r} has several candidates; keep one first with 'tallies "
            f"choose {root} {undecided[0]} LAMBDA'"
        )
    files = open_files(root, manifest) if base is None else _files_over(root, base)
    masks = [files[task.file] for task in manifest.tasks.values() if task.file is not None]
    by_tensor = {}
    for name in manifest.coded:
        tensor = manifest.tensors[name].form(name)
        for mask in masks:
            if name in mask:
                refuse_other(mask, family.entries(tensor)[:1])
        by_tensor[name] = _counts(name, tensor.shape, masks)
    totals = [sum(row[n] for row in by_tensor.values()) for n in range(len(masks) + 1)]
    return {
        "path": str(root),
        "tasks": list(manifest.tasks),
        "n_parameters": sum(totals),
        "used_by": totals,
        "tensors": by_tensor,
    }


def _files_over(root: Path, base: str | os.PathLike[str]) -> Mapping[str, Mapping[str, TensorInfo]]:
    """Return the tensors of the files of a store whose base is the given one."""
    return Store.open(root, base, check_base=False).files


def _counts(
    name: str, shape: Sequence[int], masks: Sequence[Mapping[str, TensorInfo]]
) -> list[int]:
    """Count the elements of a tensor that exactly 0, 1, ... N of the masks contain."""
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
