"""Packs and unpacks one task's file of the sparse codec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tallies import _core
from tallies.checkpoint.checkpoint import Checkpoint
from tallies.checkpoint.safetensors import read_header
from tallies.checkpoint.tensors import TensorInfo
from tallies.engine.files import Place, PlanFiles
from tallies.engine.fingerprints import content, tensor_fingerprint
from tallies.recipe.parameters import check_parameters
from tallies.store.codecs.sparse import Sparse
from tallies.store.families import _sparse_packing, _sparse_unpacking
from tests.reference import sparse
from tests.support import checkpoints
from tests.support.everywhere import Array, assert_same_bits

Model = dict[str, Array]

KINDS = ("base", "bf16", "f32", "int8")

BF16 = checkpoints.DTYPES["BF16"]

STRIP = 1 << 16
"""Elements whose values are counted together."""


def parameters(**given: object) -> dict[str, Any]:
    defaults = {name: one.default for name, one in Sparse.parameters().items()}
    return {**defaults, **check_parameters(given, Sparse, "paper")}


def limits(threads: int = 1, buffer_bytes: int = 1 << 20) -> _core.Limits:
    return _core.Limits(threads, buffer_bytes)


def tensors_of(path: Path) -> dict[str, TensorInfo]:
    return Checkpoint.open(path).tensors


def write_pair(folder: Path, base: Model, expert: Model) -> tuple[Path, Path]:
    """Files of both models, without the tensors that only one has."""
    names = [name for name in base if name in expert]
    paths = []
    for label, model in (("base", base), ("expert", expert)):
        held = {name: model[name] for name in names}
        paths.append(checkpoints.write(folder / f"{label}.safetensors", held))
    return paths[0], paths[1]


def pack(
    base: Path, expert: Path, out: Path, given: Mapping[str, Any], how: _core.Limits | None = None
) -> _sparse_packing.Packed:
    return _sparse_packing.pack(
        tensors_of(base), tensors_of(expert), out, given, how or limits(), refuse_nonfinite=False
    )


def unpack(
    base: Path, stored: Path, given: Mapping[str, Any], how: _core.Limits | None = None
) -> tuple[Model, dict[str, _sparse_unpacking.Unpacked]]:
    """All tensors of a task's file, twice: to memory, and to files that must hold the same."""
    origin = tensors_of(base)
    entries = {tensor.name: tensor for tensor in read_header(stored)[0]}
    names = [name for name in origin if name in entries]
    core = _core.Plan(True)
    out: Model = {}
    outputs: dict[str, list[Place]] = {}
    for name in names:
        tensor = origin[name]
        out[name] = np.empty(tensor.shape, checkpoints.DTYPES[tensor.dtype])
        path = stored.with_name("out.bin")
        files = [core.open_to_write(f"{path}.{i}.{len(outputs)}", tensor.n_bytes) for i in range(2)]
        address = out[name].__array_interface__["data"][0]
        outputs[name] = [(-1, address, 0), *((file, 0, 0) for file in files)]
    files = PlanFiles(core)
    found = _sparse_unpacking.unpack(files, origin, entries, outputs, given, how or limits())
    for i, name in enumerate(names):
        for copy in range(2):
            raw = stored.with_name(f"out.bin.{copy}.{i}")
            assert raw.read_bytes() == out[name].tobytes()
            raw.unlink()
    return out, found


def expected_file(entries: Mapping[str, sparse.Entries]) -> Model:
    """The tensors that the reference would write."""
    held: Model = {}
    for name, one in entries.items():
        held[name], held[f"{name}::values"] = one.mask, one.values
        if one.scales is not None:
            held[f"{name}::scales"] = one.scales
    return held


def read_task(path: Path) -> Model:
    """As ``checkpoints.read_file``, with int8."""
    found: Model = {}
    for tensor in read_header(path)[0]:
        data = path.read_bytes()[tensor.offset :][: tensor.n_bytes]
        dtype = {**checkpoints.DTYPES, "I8": np.dtype(np.int8)}[tensor.dtype]
        found[tensor.name] = np.frombuffer(data, dtype).reshape(tensor.shape)
    return found


def assert_same_model(actual: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert_same_bits(actual[name], array)


def assert_fingerprints(
    packed: _sparse_packing.Packed,
    unpacked: Mapping[str, _sparse_unpacking.Unpacked],
    paths: tuple[Path, Path, Path],
) -> None:
    """Those of the passes are those of the bytes on disk."""
    base, expert, stored = paths
    origin, other = tensors_of(base), tensors_of(expert)
    entries = {tensor.name: tensor for tensor in read_header(stored)[0]}
    for name, one in entries.items():
        assert packed.checksums[name] == tensor_fingerprint(one, content(one))
    for name, found in unpacked.items():
        assert packed.base[name] == tensor_fingerprint(origin[name], content(origin[name]))
        assert packed.expert[name] == tensor_fingerprint(other[name], content(other[name]))
        assert found.base == content(origin[name])
        assert found.mask == content(entries[name])
        assert found.values == content(entries[f"{name}::values"])
        scales = entries.get(f"{name}::scales")
        assert found.scales == (None if scales is None else content(scales))
    assert packed.n_bytes == stored.stat().st_size
