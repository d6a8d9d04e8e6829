"""Stores and bases that are damaged are refused by name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tallies import Store, TalliesError
from tests.support.checkpoints import (
    FILE,
    assert_same_tensors,
    read_file,
    write,
)
from tests.support.stores import (
    CODECS,
    assert_all_refuse,
    assert_refused,
    flip,
    loaded,
    mask_lambda,
    packed,
)

STORED = [
    ("tall", "shared.safetensors", "layer.weight"),
    ("tall", "shared.safetensors", "bias"),
    ("tall", "tasks/a.safetensors", "layer.weight"),
    ("candidates", "candidates/a/0.2.safetensors", "layer.weight"),
    ("emr", "shared.safetensors", "layer.weight"),
    ("emr", "tasks/a.safetensors", "layer.weight"),
    ("magnitude", "shared.safetensors", "embed.weight"),
    ("magnitude", "tasks/a.safetensors", "embed.weight"),
    ("lossless", "tasks/a.safetensors", "layer.weight"),
    ("lossless", "tasks/a.safetensors", "layer.weight::blocks"),
    ("bitdelta", "tasks/a.safetensors", "layer.weight"),
    ("bitdelta", "tasks/a.safetensors", "layer.weight::scale"),
    ("bitdelta", "tasks/a.safetensors", "bias"),
    ("bitdelta", "tasks/a.safetensors", "embed.weight"),
    ("tsv_c", "tasks/a.safetensors", "layer.weight"),
    ("tsv_c", "tasks/a.safetensors", "layer.weight::s"),
    ("tsv_c", "tasks/a.safetensors", "layer.weight::v"),
    ("tsv_c", "tasks/a.safetensors", "bias"),
    ("twin", "shared.safetensors", "embed.weight"),
    ("twin", "tasks/a.safetensors", "embed.weight"),
]


@pytest.mark.parametrize(("byte", "bit"), [(0, 0), (-1, 7)])
@pytest.mark.parametrize(("kind", "file", "tensor"), STORED)
def test_a_bit_of_the_store_turned_over(
    models: Path, kind: str, file: str, tensor: str, byte: int, bit: int
) -> None:
    path = packed(models, kind)
    lam = mask_lambda(kind)
    before = loaded(Store.open(path), kind)
    already_open = Store.open(path)
    flip(path / file, tensor, byte, bit)
    name = tensor.partition("::")[0]
    for store in (Store.open(path), already_open):
        words = (path / file, f"tensor {tensor!r} is damaged", "restore the file")
        assert_all_refuse(store, name, lam, *words)
        # Intact tasks can still be restored.
        other = "layer.weight" if name == "bias" else "bias"
        alone = store.tensor("a", other, mask_lambda=lam)
        assert_same_tensors({other: alone}, {other: before["a"][other]})
        if not file.startswith("shared"):
            assert_same_tensors(store.load("b", mask_lambda=lam), before["b"])
    assert sorted(os.listdir(models.parent)) == ["models", "store"]
    flip(path / file, tensor, byte, bit)
    assert_same_tensors(loaded(Store.open(path), kind)["a"], before["a"])


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("tensor", ["layer.weight", "frozen", "ids", "bias"])
def test_a_bit_of_the_base_turned_over(models: Path, kind: str, tensor: str) -> None:
    path = packed(models, kind)
    moved = models.parent / "moved"
    shutil.copytree(models / "base", moved)
    before = loaded(Store.open(path, moved), kind)
    flip(moved / FILE, tensor, 1, 3)
    assert_refused(lambda: Store.open(path, moved), moved, f"tensor {tensor!r} has other values")
    store = Store.open(path, moved, check_base=False)
    if kind in ("bitdelta", "tsv_c", "twin") and tensor == "bias":
        # Kept whole in the store, it is not the base's.
        assert_same_tensors(loaded(store, kind)["a"], before["a"])
        return
    words = (moved / FILE, f"tensor {tensor!r} is not the store's base")
    assert_all_refuse(store, tensor, mask_lambda(kind), *words)


def all_files(kind: str) -> list[str]:
    own = ["shared.safetensors"] if kind not in ("bitdelta", "tsv_c") else []
    if kind == "candidates":
        return [*own, *(f"candidates/{t}/{x}.safetensors" for t in "ab" for x in ("0.2", "0.6"))]
    return [*own, "tasks/a.safetensors", "tasks/b.safetensors"]


FILES = [(kind, file) for kind in ("tall", "candidates", "bitdelta") for file in all_files(kind)]


@pytest.mark.parametrize(("kind", "file"), FILES)
def test_files_cut_short_or_missing(models: Path, kind: str, file: str) -> None:
    path = packed(models, kind)
    whole = (path / file).read_bytes()
    for n_bytes in (len(whole) - 1, 100, 4, 0):
        (path / file).write_bytes(whole[:n_bytes])
        assert_refused(lambda: Store.open(path), path / file)
    (path / file).write_bytes(whole + b"\0")
    assert_refused(lambda: Store.open(path), path / file)
    (path / file).unlink()
    assert_refused(lambda: Store.open(path), path / file, "is missing from the store; restore it")


@pytest.mark.parametrize("file", ["shared.safetensors", "tasks/a.safetensors"])
def test_a_file_cut_short_once_the_store_is_open(models: Path, file: str) -> None:
    path = packed(models)
    store = Store.open(path)
    os.truncate(path / file, (path / file).stat().st_size - 3)
    assert_refused(lambda: store.load("a"), path / file, kind=TalliesError)
    out = models.parent / "out"
    assert_refused(lambda: store.unpack("a", out), path / file, kind=TalliesError)
    assert not out.exists()


@pytest.mark.parametrize("kind", ["tall", "emr", "magnitude", "bitdelta"])
def test_the_file_of_another_task(models: Path, kind: str) -> None:
    path = packed(models, kind)
    shutil.copyfile(path / "tasks/a.safetensors", path / "tasks/b.safetensors")
    store = Store.open(path)
    store.load("a")
    assert_refused(lambda: store.load("b"), path / "tasks/b.safetensors", "is damaged")


def test_a_file_with_other_tensors(models: Path) -> None:
    path = packed(models)
    file = path / "tasks/a.safetensors"
    tensors = read_file(file)
    for name in ("bias", "more"):
        own = {**tensors, "more": np.zeros(1, np.uint8)} if name == "more" else dict(tensors)
        if name == "bias":
            del own["bias"]
        file.unlink()
        write(file, own)
        words = "has" if name == "more" else "lacks"
        assert_refused(lambda: Store.open(path), file, f"{words} tensor {name!r}")


def test_a_mask_of_another_shape(models: Path) -> None:
    path = packed(models)
    file = path / "tasks/a.safetensors"
    tensors = read_file(file)
    file.unlink()
    write(file, {**tensors, "layer.weight": np.zeros(1, np.uint8)})
    store = Store.open(path)
    assert_refused(lambda: store.load("a"), file, kind=TalliesError)
