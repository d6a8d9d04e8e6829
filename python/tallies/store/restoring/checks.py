"""Checks of a store before a task is restored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.tensors import TensorInfo
from ...engine.fingerprints import tensor_fingerprint
from ...errors import InputError
from ...messages import show, unknown
from ..manifest import Manifest
from ..origins import resolved

Write = Callable[[bytes, int], object]
"""Called with bytes of a tensor and the position of the first of them."""


def refuse_damaged(
    store: Path, manifest: Manifest, base: Checkpoint, one: TensorInfo, lanes: Sequence[int]
) -> None:
    """Raise InputError unless a tensor of store or base has the content that was packed."""
    found = tensor_fingerprint(one, lanes)
    if one.path in base.files:
        expected, what = manifest.tensors[one.name].fingerprint, "is not the store's base"
        place = resolved(manifest.base_path, store)
        way_out = f"name the base that the store was packed from, {place}"
    else:
        file = one.path.relative_to(store).as_posix()
        expected, what = manifest.checksums[file][one.name], "is damaged"
        way_out = "restore the file, or pack again"
    if found != expected:
        raise InputError(
            f"{one.path}: tensor {show(one.name)} {what}: its checksum is {found}, expected "
            f"{expected}; {way_out}"
        )


def restored_names(known: Collection[str], names: Iterable[str]) -> list[str]:
    """Return the names; InputError for a name that is none of the known tensors."""
    found = list(names)
    for name in found:
        if name not in known:
            raise InputError(f"tensor {unknown(name, known)}")
    return found
