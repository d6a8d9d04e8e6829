"""Checks whether a checkpoint, a store or a patch is whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..checkpoint.adapters.kinds import find_adapter, kind_of
from ..checkpoint.adapters.opening import open_adapter
from ..checkpoint.empty import empty_weights
from ..engine.limits import n_threads, tile_limits
from ..engine.nonfinite import nonfinite_tensor, objection
from ..errors import InputError
from ..patches.opened import Patch, is_patch
from ..recipe.inputs import open_whole
from ..recipe.places import local_path
from ..sizes import parse_size
from ..spec.choices import Nonfinite
from ..spec.dtypes import FLOATS

_OF_PAIRS: Final = ("LoRA", "LoHa", "LoKr")
"""Kinds of adapters whose factors belong together."""


def verify(
    path: str | os.PathLike[str] | bytes,
    *,
    nonfinite: str = "error",
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    base: str | os.PathLike[str] | None = None,
    tasks: Mapping[str, str | os.PathLike[str]] | None = None,
    variant: str | None = None,
) -> dict[str, Any]:
    """Check a checkpoint, a store or a patch.

    Headers, index and sizes of a checkpoint are checked, and its values must be finite. The factors
    of an adapter must be whole, and their ranks those that it states. All of a store,
    or of a patch, is compared with its checksums.

    Args:
        path: The checkpoint, which may have adapters (``base+adapter``), the store or the patch,
            of which bytes are taken as well.
        nonfinite: "error", or "warn" to list NaN and infinite values of a checkpoint instead.
        max_memory: Upper bound for memory, as bytes or as text such as "1GiB".
        threads: The number of threads; by default, all cores.
        base: A base to compare with the one that a store was packed from.
        tasks: Experts to compare with those that a store was packed from, by the names of their
            tasks.
        variant: The variant of a checkpoint's weights to read where there are several.

    Returns:
        The kind and the sizes of what was read and, for a checkpoint, ``nonfinite``: by tensor, the
        number of such values and the first one's element; ``empty``: tensors without elements. For
        a store, ``base_missing``: None, or where its base was expected and is not.

    Raises:
        InputError: The first fault that was found.
        StorageError: A file cannot be read.

    >>> tallies.verify("merged")["tensors"]  # doctest: +SKIP
    291
    """
    from .stores import is_store, verify_store

    if isinstance(path, (bytes, bytearray, memoryview)):
        return _verify_patch(Patch.open(path, "patch (bytes)"))
    place = local_path(path, variant or "")
    if is_store(place):
        return verify_store(place, threads=threads, base=base, tasks=tasks or {})
    if is_patch(Path(place)):
        return _verify_patch(Patch.open(place))
    if base is not None or tasks:
        raise InputError(
            f"{path}: is no store, which alone has a base and tasks to compare (--base, --task)"
        )
    checkpoint = open_whole(os.fspath(path), variant or "")
    adapter = find_adapter(checkpoint)
    if adapter is not None and not adapter.in_a_model and adapter.kind in _OF_PAIRS:
        open_adapter(place)  # refuses half a pair of factors, and ranks that disagree
    limits = tile_limits(parse_size(max_memory), n_threads(threads))
    found = {}
    for tensor in checkpoint.tensors.values():
        if tensor.dtype not in FLOATS:
            continue
        blamed, count, first = nonfinite_tensor(tensor, limits)
        if count and nonfinite == Nonfinite.ERROR:
            raise InputError(objection(blamed, count, first, way_out=None))
        if count:
            found[blamed.name] = {"count": count, "first": first}
    return {
        "path": checkpoint.label,
        "kind": kind_of(adapter),
        "files": len(checkpoint.files),
        "tensors": len(checkpoint.tensors),
        "n_bytes": checkpoint.n_bytes,
        "nonfinite": found,
        "empty": empty_weights(checkpoint),
    }


def _verify_patch(patch: Patch) -> dict[str, Any]:
    """Compare all that a patch stores with its checksums, and return the facts of ``verify``."""
    patch.check_all()
    return {
        "path": patch.label,
        "kind": "patch",
        "files": len({tensor.path for tensor in patch.entries.values()}),
        "tensors": len(patch.manifest.tensors),
        "n_bytes": patch.n_bytes,
    }
