"""Checks of a store and of its unpacked tasks, in slices, against the reference."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tallies.checkpoint.checkpoint import Checkpoint
from tests.reference import emr, tall
from tests.reference.dtype import Floats

from .parts import Model, Reach, bits, compare, parts

_Share = Callable[[Sequence[tall.Vector]], dict[str, Floats]]
_Mask = Callable[[Sequence[tall.Vector], tall.Vector], list[tall.Masks]]
_REFERENCE: Mapping[str, tuple[_Share, _Mask]] = {
    "tall": (tall.shared_vector, tall.masks),
    "emr": (emr.unified_vector, emr.masks),
}


def store_fingerprint(store: Path) -> str:
    """Sixteen hexadecimal digits that stand for all tensors of a store and the tasks' scales."""
    manifest = _manifest(store)
    scales = {name: task["scale"] for name, task in manifest["tasks"].items()}
    text = json.dumps([manifest["checksums"], scales])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def check_store(store: Path, models: Sequence[Path]) -> int:
    """Compare shared vector and masks of tall or emr with the reference, bit for bit.

    Returns how many elements of the shared vector and bytes of masks were compared, 0 for other
    codecs, of which no element can be checked by itself. RuntimeError where bits differ.
    """
    manifest = _manifest(store)
    if manifest["codec"] not in _REFERENCE:
        return 0
    share, mask = _REFERENCE[manifest["codec"]]
    base, *experts = (parts(Checkpoint.open(path), Reach.ELEMENT) for path in models)
    found = _shared(store)
    vectors = tall.vectors(base, experts, list(found))
    shared = share(vectors)
    n_checked = compare("the shared vector", found, tall.stored(shared, base))
    for task, wanted in zip(manifest["tasks"], mask(vectors, shared), strict=True):
        n_checked += compare(f"the mask of {task}", _masks(store, task, models[0]), dict(wanted))
    return n_checked


def check_unpacked(store: Path, task: str, base: Path, out: Path) -> int:
    """Compare a task's checkpoint with what the reference makes of base and store."""
    expected = tall.unpack(
        parts(Checkpoint.open(base), Reach.ELEMENT),
        _shared(store),
        _masks(store, task, base),
        _manifest(store)["tasks"][task]["scale"],
    )
    return compare(task, parts(Checkpoint.open(out), Reach.ELEMENT), expected)


def check_same_content(store: Path, other: Path) -> None:
    """RuntimeError unless every tensor of a store has the same bytes in files of equal names."""
    for file, checksums in _manifest(store)["checksums"].items():
        ours, theirs = (Checkpoint.open(path / file).tensors for path in (store, other))
        for name in checksums:
            one, two = (
                np.fromfile(info.path, np.uint8, info.n_bytes, offset=info.offset)
                for info in (ours[name], theirs[name])
            )
            if not np.array_equal(one, two):
                raise RuntimeError(f"{file}: tensor {name!r} differs from the plain program's")


def digest(tensors: Mapping[str, Any]) -> str:
    """A checksum of arrays of bytes, by name."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name], zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def checkpoint_digest(path: Path) -> str:
    """The same of a checkpoint on disk."""
    return digest(
        {
            name: np.fromfile(info.path, np.uint8, info.n_bytes, offset=info.offset)
            for name, info in Checkpoint.open(path).tensors.items()
        }
    )


def _manifest(store: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((store / "store.json").read_text())
    return manifest


def _shared(store: Path) -> Model:
    return parts(Checkpoint.open(store / "shared.safetensors"), Reach.ELEMENT)


def _masks(store: Path, task: str, base: Path) -> Model:
    shapes = Checkpoint.open(base).tensors
    packed = Checkpoint.open(store / _manifest(store)["tasks"][task]["file"]).tensors
    return {name: bits(info, shapes[name].n_elements) for name, info in packed.items()}
