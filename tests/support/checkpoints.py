"""Checkpoints on disk from dicts of NumPy arrays and back, by way of the stock library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import safetensors
from safetensors.numpy import save_file

from tallies.spec.dtypes import TABLE
from tests.support.everywhere import assert_same_bits

Array = npt.NDArray[Any]
Model = dict[str, Array]

DTYPES = {
    one.name: np.dtype(getattr(ml_dtypes, one.array_name, one.array_name))
    for one in TABLE
    if one.array_name and not one.n_bits
}
"""NumPy's types by the names that safetensors gives them."""

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def write(
    path: Path, tensors: Mapping[str, Array], *, n_files: int = 1, config: object = None
) -> Path:
    """A model at ``path``: a file if the name says so, else a directory.

    With ``n_files`` the tensors are dealt out to so many files in turn, in the order of the dict.
    """
    arrays = {name: np.require(array, requirements="C") for name, array in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(arrays, path)
        return path
    path.mkdir(parents=True)
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    if n_files == 1:
        save_file(arrays, path / FILE)
        return path
    names = list(arrays)
    shards = {
        f"model-{i + 1:05d}-of-{n_files:05d}.safetensors": names[i::n_files] for i in range(n_files)
    }
    for file, held in shards.items():
        save_file({name: arrays[name] for name in held}, path / file)
    index = {
        "metadata": {"total_size": sum(array.nbytes for array in arrays.values())},
        "weight_map": {name: file for file, held in shards.items() for name in held},
    }
    (path / INDEX).write_text(json.dumps(index))
    return path


def read_file(path: Path) -> Model:
    """The tensors of one file as the stock library reads them."""
    return {
        name: np.frombuffer(bytes(found["data"]), DTYPES[found["dtype"]]).reshape(found["shape"])
        for name, found in safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    }


def read(path: Path) -> Model:
    """The tensors of a model; its index, if there is one, must be right."""
    if path.is_file():
        return read_file(path)
    files = sorted(file.name for file in path.glob("*.safetensors"))
    held = {file: read_file(path / file) for file in files}
    if (path / INDEX).exists():
        index = json.loads((path / INDEX).read_text())
        assert index["weight_map"] == {name: file for file in files for name in held[file]}
        total = sum(array.nbytes for tensors in held.values() for array in tensors.values())
        assert index["metadata"] == {"total_size": total}
    else:
        assert files == [FILE]
    return {name: array for tensors in held.values() for name, array in tensors.items()}


def assert_holds(path: Path, expected: Mapping[str, Array]) -> None:
    """The model at ``path`` has these tensors, bit for bit, and no others."""
    assert_same_tensors(read(path), expected)


def assert_same_tensors(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        try:
            assert_same_bits(found[name], array)
        except AssertionError as difference:
            raise AssertionError(f"tensor {name!r}: {difference}") from None


TOLD = ("tallies.json", "README.md", "mergekit_config.yml")
"""The files that tell of a merge: they name times, places and versions."""


def data_bytes(path: Path) -> dict[str, bytes]:
    """All files of a result, by relative path, but those that tell of the merge."""
    return {
        name: file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and (name := str(file.relative_to(path))) not in TOLD
    }
