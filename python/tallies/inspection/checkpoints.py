"""Describes a checkpoint, a store or a patch: its tensors, sizes and fingerprints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..checkpoint.adapters.kinds import find_adapter, kind_of
from ..checkpoint.adapters.opening import open_adapter
from ..checkpoint.adapters.placing import place as lay_over
from ..checkpoint.checkpoint import Checkpoint
from ..engine.fingerprints import contents, model_fingerprint, tensor_fingerprint
from ..engine.limits import n_threads
from ..hub.names import of_snapshot
from ..patches.opened import Patch, is_patch
from ..recipe.inputs import Inputs
from ..recipe.places import PLUS, Places
from .adapters import describe_adapter, facts_of
from .one_tensor import below, checkpoint_tensor
from .patches import inspect_patch, patched_tensor


def inspect(
    path: str | os.PathLike[str],
    *,
    fingerprints: bool = True,
    threads: int | None = None,
    variant: str | None = None,
    tensor: str | None = None,
) -> dict[str, Any]:
    """Describe the tensors of a checkpoint, or the tasks of a store, as plain data.

    Args:
        path: The checkpoint, which may have adapters (``base+adapter``), or the store.
        fingerprints: Read all data of a checkpoint, at about the speed of the disk, and add
            fingerprints; not those of a model of the hub that is not in the cache. The reports of
            merges name the same ``fingerprint`` of a whole checkpoint.
        threads: The number of threads; by default, all cores.
        variant: The variant of a checkpoint's weights to read where there are several.
        tensor: The name of a tensor, to describe it alone.

    Returns:
        For a checkpoint, ``path``, ``kind`` (``checkpoint``, or ``adapter`` where its tensors are
        those of an adapter), ``adapter`` (what kind of adapter it is or holds, in words, or None),
        ``adapters`` (those on the model, or the adapter itself, as ``describe_adapter`` does),
        ``files`` with their sizes, counts, ``metadata``,
        ``left_out`` (paths that are no weights of the model, and why), ``fingerprint``, and
        ``tensors`` by name with dtype, shape, bytes, file and fingerprint.
        For a patch, ``path``, ``kind``, ``values``, ``coder``, fingerprints ``old`` and ``new``,
        and ``tensors`` by name with change, layouts, changed elements and bytes.
        For a store, ``path``, ``kind``, ``codec``, ``parameters``, ``base``, sizes of files, and
        ``tasks`` and ``tensors`` by name, from headers alone.
        For a tensor, ``kind`` (``tensor``), ``name``, and what is known of it: of a checkpoint,
        dtype, shape, ``file``, ``offset``, fingerprint and the numbers of its ``values`` (``min``,
        ``max``, ``mean``, ``std``, zeros, NaN, infinities); of a store, what each of the ``tasks``
        has of it; of a patch, its change.

    Raises:
        InputError: The checkpoint or the store is damaged, or has no such tensor.
        StorageError: A file cannot be read.

    >>> tallies.inspect("merged", fingerprints=False)["n_tensors"]  # doctest: +SKIP
    291
    """
    from .stored_tensor import stored_tensor
    from .stores import inspect_store, is_store

    places, text = Places.of(), os.fspath(path)
    place = places.headers(text, variant or "")
    if is_store(place):
        return inspect_store(place) if tensor is None else stored_tensor(place, tensor)
    if is_patch(Path(place)):
        found = inspect_patch(Patch.open(place))
        return found if tensor is None else patched_tensor(found, tensor)
    with Inputs(places, [text]).named():
        checkpoint = Checkpoint.open(place, variant=variant or "")
        for piece in places.pieces(text)[1:]:
            checkpoint = lay_over(checkpoint, open_adapter(places.local(piece)))
    model = of_snapshot(place)
    if model is not None:
        from ..hub.shadow import is_shadow

        fingerprints = fingerprints and not is_shadow(place)
    if tensor is not None:
        return checkpoint_tensor(checkpoint, tensor, with_data=fingerprints)
    adapter, adapters = find_adapter(checkpoint), [*map(facts_of, checkpoint.adapters)]
    if kind_of(adapter) == "adapter":
        with Inputs(places, [text]).named():
            adapters = [describe_adapter(places.local(text))]
    others = [str(each.path) for each in checkpoint.adapters]
    tensors = list(checkpoint.tensors.values())
    prints: dict[str, str] = {}
    if fingerprints:
        prints = {
            one.name: tensor_fingerprint(one, lanes)
            for one, lanes in zip(tensors, contents(tensors, n_threads(threads)), strict=True)
        }
    by_dtype: dict[str, int] = {}
    for one in tensors:
        by_dtype[one.dtype] = by_dtype.get(one.dtype, 0) + one.n_elements
    return {
        "path": PLUS.join([model.text if model else str(checkpoint.path), *others]),
        "kind": kind_of(adapter),
        "adapter": str(adapter) if adapter else None,
        "adapters": adapters,
        "files": {below(file, checkpoint.path): file.stat().st_size for file in checkpoint.files},
        "n_tensors": len(tensors),
        "n_elements": sum(one.n_elements for one in tensors),
        "n_bytes": checkpoint.n_bytes,
        "elements_by_dtype": by_dtype,
        "metadata": checkpoint.metadata,
        "left_out": dict(checkpoint.not_read),
        "fingerprint": model_fingerprint(prints) if fingerprints else None,
        "tensors": {
            one.name: {
                "dtype": one.dtype,
                "shape": list(one.shape),
                "n_bytes": one.n_bytes,
                "file": below(one.path, checkpoint.path),
                "fingerprint": prints.get(one.name),
                **({"changes": len(one.changes)} if one.changes else {}),
            }
            for one in tensors
        },
    }
