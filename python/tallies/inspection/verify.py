"""Whether a checkpoint or a store is whole."""

from __future__ import annotations

import os
from typing import Any

from .._core import Plan
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.scaled import with_scales
from ..engine.files import PlanFiles, native
from ..engine.limits import n_threads, tile_limits
from ..errors import InputError
from ..spec.dtypes import FLOATS


def verify(
    path: str | os.PathLike[str],
    *,
    nonfinite: str = "error",
    max_memory: str | int = "1GiB",
    threads: int | None = None,
) -> dict[str, Any]:
    """Check headers, index and sizes of a checkpoint, and that its values are finite.

    A store is compared with its checksums. Returns what was looked at, as plain data; raises
    InputError for the first thing that is wrong. With ``nonfinite="warn"`` infinite and NaN values
    are listed, not refused.
    """
    from .stores import is_store, verify_store

    if is_store(path):
        return verify_store(path, threads=threads)
    checkpoint = with_scales(Checkpoint.open(path))
    limits = tile_limits(max_memory, n_threads(threads))
    found = {}
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype not in FLOATS:
            continue
        core = Plan(False)
        inputs = PlanFiles(core)
        core.add_job(tensor.n_elements, [native(inputs.operand(tensor))], [])
        count, first = core.find_nonfinite(0, 0, limits)
        if count and nonfinite == "error":
            raise InputError(
                f"{tensor.path}: tensor {name!r} has {count} NaN or infinite values, the first at "
                f"element {first}, expected finite ones"
            )
        if count:
            found[name] = {"count": count, "first": first}
    return {
        "path": str(checkpoint.path),
        "kind": "checkpoint",
        "files": len(checkpoint.files),
        "tensors": len(checkpoint.tensors),
        "n_bytes": checkpoint.n_bytes,
        "nonfinite": found,
    }
