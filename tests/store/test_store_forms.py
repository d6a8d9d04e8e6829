"""Stores whose manifest and files do not fit together are refused before a kernel runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallies import InputError, Store
from tallies.inspection.stored_tensor import stored_tensor
from tallies.store import consensus
from tests.support.checkpoints import read_file, write
from tests.support.stores import assert_all_refuse, assert_refused, edit, packed

LOSSLESS = "'layer.weight::blocks': found none, expected U32"

OTHERS = [
    ("tall", "bitdelta", {}, "'layer.weight::scale': found none, expected F32 []"),
    ("tall", "lossless", {}, LOSSLESS),
    ("tall", "tsv_c", {}, "'layer.weight': found U8 [5], expected F16 [5, 0]"),
    ("tall", "sparse", {}, "'layer.weight::values': found none"),
    ("tall", "lora", {}, "is no text of changes"),
    ("tall", "tall", {"shared_dtype": "F32"}, "found F16 [5, 7], expected F32 [5, 7]"),
    ("bitdelta", "tall", {}, "'layer.weight': found none, expected F16 [5, 7]"),
    ("bitdelta", "tsv_c", {}, "'layer.weight': found U8 [5], expected F16 [5, 0]"),
    ("magnitude", "lossless", {}, LOSSLESS),
    ("lossless", "bitdelta", {}, "'layer.weight': found U8 ["),
    ("lossless", "sparse", {}, "'layer.weight': found U8 ["),
    ("tsv_c", "tall", {}, "'layer.weight': found F16 ["),
    ("tsv_c", "tsv_c", {"fraction": 1.0}, "expected F16 [5, 5]"),
    ("tsv_c", "tsv_c", {"values": "f32"}, "expected F32 [5, "),
    ("tsv_c", "twin", {"fraction": 0.5}, "'layer.weight': found none, expected F16 [5, 7]"),
    ("twin", "tsv_c", {"fraction": 1.0}, "expected F16 [5, 5]"),
    ("sparse", "sparse", {"values": "bf16"}, "'layer.weight::values': found F16 "),
    ("sparse", "sparse", {"values": "int8"}, "'layer.weight::values': found F16 "),
    ("sparse", "lossless", {}, LOSSLESS),
]


def packed_as(models: Path, kind: str) -> Path:
    if kind != "sparse":
        return packed(models, kind)
    return packed(models, codec="sparse", density=0.5)


@pytest.mark.parametrize(("kind", "codec", "parameters", "words"), OTHERS)
def test_another_codec_than_the_files_were_made_with(
    models: Path, kind: str, codec: str, parameters: dict[str, Any], words: str
) -> None:
    path = packed_as(models, kind)
    edit(path, lambda data: data.update(codec=codec, parameters=parameters))
    store = Store.open(path)
    assert_refused(lambda: store.tensor("a", "layer.weight"), path, "'layer.weight", words)
    assert_all_refuse(store, "layer.weight", None, path)


@pytest.mark.parametrize("shape", [(3,), (90,), (3, 3)])
def test_a_whole_tensor_of_another_shape(models: Path, shape: tuple[int, ...]) -> None:
    """Else the array of the base's shape would be written beyond its end."""
    path = packed(models, "bitdelta")
    file = path / "tasks/a.safetensors"
    tensors = read_file(file)
    file.unlink()
    write(file, {**tensors, "bias": np.zeros(shape, np.float32)})
    words = (file, f"tensor 'bias': found F32 {list(shape)}, expected F32 [9]")
    assert_all_refuse(Store.open(path), "bias", None, *words)


@pytest.mark.parametrize("other", ["embed.weight", "frozen", "bias"])
def test_a_tensor_tied_to_one_of_another_shape(models: Path, other: str) -> None:
    path = packed(models)
    edit(path, lambda data: data["tensors"]["bias"].update(kind="tied", tied_to=other))
    assert_refused(
        lambda: Store.open(path), path / "store.json", "is damaged", f"tied to {other!r}"
    )


def test_another_form_where_a_codec_keeps_none(models: Path) -> None:
    path = packed(models)
    edit(path, lambda data: data["tasks"]["a"].update(forms={"bias": ["F32", [3]]}))
    assert_all_refuse(Store.open(path), "bias", None, path, "'bias' has another form")
    edit(path, lambda data: data["tasks"]["a"].update(forms={"new": ["F32", [3]]}))
    assert_all_refuse(Store.open(path), "new", None, path, "'new' has another form")


def test_a_tensor_that_the_codec_does_not_encode(models: Path) -> None:
    path = packed(models)
    edit(path, lambda data: data.update(codec="tsv_c", parameters={}))
    words = (path, "tensor 'bias' is encoded, which codec 'tsv_c' does with no such tensor")
    assert_refused(lambda: Store.open(path).tensor("a", "bias"), *words)


def test_masks_of_another_size_are_not_counted(models: Path) -> None:
    path = packed(models)
    for task in ("a", "b"):
        file = path / f"tasks/{task}.safetensors"
        tensors = read_file(file)
        file.unlink()
        write(file, {**tensors, "layer.weight": np.full(99, 255, np.uint8)})
    words = ("'layer.weight': found U8 [99], expected U8 [5]",)
    assert_refused(lambda: consensus(path), path, *words)
    assert_refused(lambda: stored_tensor(path, "layer.weight"), path, *words)


NUL = "x\0y"
LONE = "x\ud800"


@pytest.mark.parametrize("text", [NUL, LONE])
@pytest.mark.parametrize(
    "change",
    [
        lambda data, text: data["base"].update(path=text),
        lambda data, text: data["tasks"]["a"].update(source=text),
        lambda data, text: data["tasks"]["a"].update(file=text),
        lambda data, text: data["tasks"]["a"].update(candidates={"0.2": text}),
        lambda data, text: data["tasks"]["a"].update(borrowed={"bias": text}),
        lambda data, text: data["tasks"].update({text: data["tasks"].pop("a")}),
        lambda data, text: data["checksums"].update({text: {}}),
        lambda data, text: data["small_files"].update({text: {}}),
        lambda data, text: data["small_files"]["a"].update(
            {text: {"checksum": "", "n_bytes": 0, "in_base": False}}
        ),
    ],
    ids=["base", "source", "file", "candidate", "borrowed", "task", "sums", "small", "name"],
)
def test_texts_that_are_no_paths(
    models: Path, change: Callable[[dict[str, Any], str], object], text: str
) -> None:
    path = packed(models)
    edit(path, lambda data: change(data, text))
    assert_refused(lambda: Store.open(path), path / "store.json", "is damaged")


@pytest.mark.parametrize("task", ["..", "../..", "/etc", "a/b", ""])
def test_names_of_tasks_that_lead_outside(models: Path, task: str) -> None:
    path = packed(models)

    def rename(data: dict[str, Any]) -> None:
        for table in ("tasks", "small_files"):
            data[table][task] = data[table].pop("a")

    edit(path, rename)
    assert_refused(lambda: Store.open(path), path / "store.json", "is damaged", f"task {task!r}")


@pytest.mark.parametrize("file", ["./tasks/a.safetensors", "tasks//a.safetensors"])
def test_another_spelling_of_a_file(models: Path, file: str) -> None:
    path = packed(models)

    def spell(data: dict[str, Any]) -> None:
        data["tasks"]["a"]["file"] = file
        data["checksums"][file] = data["checksums"].pop("tasks/a.safetensors")

    edit(path, spell)
    words = (repr(file), "expected 'tasks/a.safetensors'")
    assert_refused(lambda: Store.open(path), path / "store.json", *words)


@pytest.mark.parametrize("kind", ["tsv_c", "twin"])
def test_huge_values_are_refused_without_warnings(models: Path, kind: str) -> None:
    path = packed(models, kind)
    for file in sorted(path.rglob("*.safetensors")):
        tensors = read_file(file)
        file.unlink()
        write(file, {name: np.full_like(one, np.inf) for name, one in tensors.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"'layer.weight.* is damaged"):
            Store.open(path).tensor("a", "layer.weight")
