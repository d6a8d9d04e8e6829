"""The directories of delta versions that slime and miles publish and SGLang pulls.

``weight_v000001/`` is a version: an index whose metadata name the version, its base version, the
encoding, the compression and the checksum, and safetensors files that hold, for each tensor that
changed, a frame of zstandard as U8. The frame has ``new ^ old`` of all bytes (``xor``), or the
number of changed bytes, their positions and the new bytes (``overwrite``). The files' headers have
a checksum of each new tensor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ...checkpoint.destination import Destination
from ...checkpoint.json_text import is_object, json_object, read_text
from ...checkpoint.layout import INDEX_NAME
from ...checkpoint.safetensors import read_header
from ...checkpoint.tensors import TensorInfo
from ...errors import InputError
from ...messages import either, show, some
from ..chains import OnePatch
from ..manifest import Form
from ..report import PatchReport
from .checksums import CHECKSUMS, checksum
from .delta_frames import apply_overwrite, apply_xor, decompressed, zstandard_module
from .files import write_tensors
from .updates import Bits, Change, ChangedTensor, bits_of, changed_tensors, make

ENCODINGS: Final = ("xor", "overwrite")

_KEYS: Final = (
    "version",
    "base_version",
    "delta_encoding",
    "compression_format",
    "checksum_format",
)
_LEVEL: Final = 1
_FILE_BYTES: Final = 1 << 30
"""The frames that a file holds; another one follows."""


def to_patch(
    versions: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    base: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> PatchReport:
    """Make one patch of a delta version, or of several that follow each other, and their base.

    Args:
        versions: The directory of the version, or the directories in their order.
        base: The model in the first one's base version.
        out: The patch to write; None for bytes, which the report then has as ``data``.
        options: Further arguments of ``make_patch``.

    Raises:
        InputError: A directory is no delta version, is damaged or out of order, or does not fit to
            the model: the checksum of a tensor is another.
        StorageError: A file cannot be read or written.
    """
    given = list(versions) if isinstance(versions, (list, tuple)) else [versions]
    opened = [_Version(_path(one)) for one in given]
    if not opened:
        raise InputError("versions: found none, expected at least one directory")
    for before, after in pairwise(opened):
        if after.facts["base_version"] != before.facts["version"]:
            raise InputError(
                f"{after.path}: builds on version {after.facts['base_version']}, and "
                f"{before.path} is version {before.facts['version']}; give each version once, in "
                "order"
            )

    def changes_of(forms: Mapping[str, Form]) -> dict[str, list[Change]]:
        found: dict[str, list[Change]] = {}
        for version in opened:
            for name, frame in version.frames.items():
                found.setdefault(name, []).append(version.change(name, frame))
        return found

    return make(base, changes_of, str(opened[-1].path), out, options)


def _path(one: object) -> Path:
    if not isinstance(one, (str, os.PathLike)):
        raise InputError(
            f"versions: found {type(one).__name__}, expected the path of a directory, several in a "
            "list"
        )
    if os.path.isfile(one):
        raise InputError(f"{os.fspath(one)}: is a file, expected the directory of a version")
    return Path(one)


class _Version:
    """An open delta version."""

    def __init__(self, path: Path) -> None:
        self.path = path
        index = path / INDEX_NAME
        if not index.exists() and any(path.glob("weight_v*")):
            known = sorted(one.name for one in path.glob("weight_v*"))
            raise InputError(
                f"{path}: has versions in it and is none; name one of them: {some(known)}"
            )
        text = json_object(read_text(index), str(index))
        metadata = text.get("metadata")
        if not is_object(metadata) or "delta_encoding" not in metadata:
            raise InputError(
                f"{index}: its metadata have no delta_encoding; this is a whole model, which "
                "make_patch compares with its base"
            )
        for key in _KEYS:
            if not isinstance(metadata.get(key), str):
                raise InputError(f"{index}: found {key} {show(metadata.get(key))}, expected a text")
        self.facts: dict[str, str] = {key: metadata[key] for key in _KEYS}
        _refuse_other(str(index), "delta_encoding", self.facts["delta_encoding"], ENCODINGS)
        _refuse_other(str(index), "compression_format", self.facts["compression_format"], ("zstd",))
        _refuse_other(str(index), "checksum_format", self.facts["checksum_format"], CHECKSUMS)
        self.frames: dict[str, TensorInfo] = {}
        self.checksums: dict[str, str] = {}
        for file in sorted(path.glob("*.safetensors")):
            tensors, sums = read_header(file)
            for tensor in tensors:
                if tensor.name in self.frames:
                    raise InputError(f"{file}: has tensor {show(tensor.name)} of another file too")
                if tensor.name not in sums or tensor.dtype != "U8":
                    raise InputError(
                        f"{file}: tensor {show(tensor.name)} is {tensor.dtype} with checksum "
                        f"{show(sums.get(tensor.name))}, expected U8 with one"
                    )
                self.frames[tensor.name] = tensor
            self.checksums.update(sums)
        if "weight_map" in text:
            self._refuse_parts(str(index), text["weight_map"])

    def _refuse_parts(self, index: str, weight_map: object) -> None:
        """Raise InputError unless each tensor is in the file that the index names for it."""
        if not is_object(weight_map):
            raise InputError(f"{index}: found weight_map {show(weight_map)}, expected an object")
        for name in sorted(weight_map.keys() | self.frames.keys()):
            found = self.frames[name].path.name if name in self.frames else None
            expected = weight_map.get(name)
            if found != expected:
                raise InputError(
                    f"{index}: tensor {show(name)} is in file {show(found)}, expected "
                    f"{show(expected)}; copy the version again"
                )

    def change(self, name: str, frame: TensorInfo) -> Change:
        """Return what changes a tensor, and checks its checksum then."""
        where = f"{frame.path}: tensor {show(name)}"
        algorithm, expected = self.facts["checksum_format"], self.checksums[name]
        apply = apply_xor if self.facts["delta_encoding"] == "xor" else apply_overwrite

        def change(bits: Bits) -> None:
            data = bits.view(np.uint8)
            most = data.size if apply is apply_xor else 4 + 5 * data.size
            apply(where, decompressed(where, bits_of(frame).tobytes(), most), data)
            if (found := checksum(algorithm, data)) != expected:
                raise InputError(
                    f"{where}: makes checksum {found}, expected {expected}; the delta is damaged, "
                    f"or the model is not in version {self.facts['base_version']}"
                )

        return change


def _refuse_other(where: str, key: str, found: str, known: Sequence[str]) -> None:
    if found not in known:
        raise InputError(f"{where}: found {key} {show(found)}, expected {either(known)}")


def from_patch(
    patch: OnePatch,
    base: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    version: int,
    encoding: str = "xor",
    checksum_format: str = "xxh3-128",
    overwrite: bool = False,
) -> Path:
    """Write a patch as a delta version, ``out/weight_v000001``.

    Args:
        patch: The patch.
        base: The model that it starts from, in version ``version - 1``.
        out: The directory of all versions.
        version: The number of the version, from 1 up.
        encoding: "xor" or "overwrite".
        checksum_format: "xxh3-128", "blake3" or "adler32"; the first two need their packages.
        overwrite: Replace an earlier version of this number.

    Returns:
        The directory of the version.

    Raises:
        InputError: The patch does not fit to the model, or a tensor is too large for "overwrite".
        StorageError: A file cannot be read or written.
    """
    _refuse_other("encoding", "delta_encoding", encoding, ENCODINGS)
    _refuse_other("checksum_format", "checksum", checksum_format, CHECKSUMS)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise InputError(f"version: found {show(version)}, expected a whole number from 1 up")
    path = Path(out) / f"weight_v{version:06d}"
    destination = Destination(path, [Path(base)], overwrite)
    with destination.writing(resume=False) as directory:
        files = _write_frames(directory, changed_tensors(patch, base), encoding, checksum_format)
        index = {
            "metadata": {
                "version": f"{version:06d}",
                "base_version": f"{version - 1:06d}",
                "delta_encoding": encoding,
                "compression_format": "zstd",
                "checksum_format": checksum_format,
            },
            "weight_map": {name: file for file, names in files.items() for name in names},
        }
        (directory / INDEX_NAME).write_text(json.dumps(index))
    return destination.path


def _write_frames(
    directory: Path, changed: Iterable[ChangedTensor], encoding: str, checksum_format: str
) -> dict[str, list[str]]:
    """Write the frames of all tensors; return the names of the tensors in each file."""
    compressor = zstandard_module().ZstdCompressor(level=_LEVEL)
    files: list[list[str]] = []
    frames: dict[str, tuple[str, npt.NDArray[Any]]] = {}
    sums: dict[str, str] = {}

    def flush() -> None:
        if frames:
            write_tensors(directory / f"{len(files)}.part", frames, sums)
            files.append([*frames])
            frames.clear()
            sums.clear()

    for one in changed:
        if sum(held.size for _, held in frames.values()) >= _FILE_BYTES:
            flush()
        frame = compressor.compress(_delta(one, encoding))
        frames[one.name] = ("U8", np.frombuffer(frame, np.uint8))
        sums[one.name] = checksum(checksum_format, one.new.view(np.uint8))
    flush()
    named = {}
    for number, names in enumerate(files):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        (directory / f"{number}.part").rename(directory / name)
        named[name] = names
    return named


def _delta(one: ChangedTensor, encoding: str) -> bytes:
    old, new = one.old.view(np.uint8), one.new.view(np.uint8)
    if encoding == "xor":
        return bytes((old ^ new).data)
    if new.size > 2**32:
        raise InputError(
            f"tensor {show(one.name)} has {new.size} bytes, and positions of 'overwrite' name "
            f"{2**32}; take 'xor'"
        )
    at = np.flatnonzero(old != new).astype("<u4")
    return b"".join([np.array([at.size], "<u4").tobytes(), at.tobytes(), new[at].tobytes()])
