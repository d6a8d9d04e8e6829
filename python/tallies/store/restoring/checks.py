"""Checks of a store before a task is restored."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import TensorInfo
from ...engine.fingerprints import tensor_fingerprint
from ...errors import InputError, TalliesError
from ...messages import show, unknown_of_many
from ..manifest import Manifest
from ..origins import recorded_in_words, resolved

Write = Callable[[bytes, int], object]
"""Called with bytes of a tensor and the position of the first of them."""


def refuse_damaged(
    store: Path, manifest: Manifest, base: Checkpoint, one: TensorInfo, lanes: Sequence[int]
) -> None:
    """Raise InputError unless a tensor of store or base has the content that was packed."""
    found = tensor_fingerprint(one, lanes)
    if one.path in base.files:
        expected, what = manifest.tensors[one.name].fingerprint, "is not the store's base"
        way_out = _way_to_the_base(store, manifest, base)
    else:
        file = one.path.relative_to(store).as_posix()
        expected, what = manifest.checksums[file][one.name], "is damaged"
        way_out = "restore the file, or pack again"
    if found != expected:
        if one.path not in base.files and _is_replaced(store, manifest):
            raise InputError(
                f"{one.path}: tensor {show(one.name)} is another one than when the store was "
                f"opened, for {store} was replaced since; open it again"
            )
        raise InputError(
            f"{one.path}: tensor {show(one.name)} {what}: its checksum is {found}, expected "
            f"{expected}; {way_out}"
        )


def _is_replaced(store: Path, manifest: Manifest) -> bool:
    """Tell if another store has been put in the place of an opened one."""
    try:
        return Manifest.read(store) != manifest
    except TalliesError:
        return False


def _way_to_the_base(store: Path, manifest: Manifest, base: Checkpoint) -> str:
    place = resolved(manifest.recorded_base, store)
    if os.path.realpath(place) == os.path.realpath(base.path):
        return "restore it, or name the base that the store was packed from (base=, --base)"
    recorded = recorded_in_words(manifest, store)
    return f"name the base that the store was packed from (recorded as {recorded})"


def restored_names(known: Collection[str], names: Iterable[str]) -> list[str]:
    """Return the names; InputError for a name that is none of the known tensors."""
    found = list(names)
    for name in found:
        if name not in known:
            raise InputError(f"tensor {unknown_of_many(name, known)}")
    return found
