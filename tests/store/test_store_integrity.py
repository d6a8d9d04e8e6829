"""Stores that are damaged, over another base, asked for wrongly, or cut off while being written."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallies import InputError, StorageError, Store, TalliesError, pack
from tallies.store.manifest import Manifest
from tallies.store.packing.run import PackRun
from tests.support.checkpoints import (
    FILE,
    Model,
    assert_holds,
    assert_same_tensors,
    read_file,
    write,
)
from tests.support.command import tree
from tests.support.killable import Killer

RNG = np.random.default_rng(4)

BASE: Model = {
    "bias": RNG.standard_normal(9).astype(np.float32),
    "embed.weight": RNG.standard_normal((6, 4)).astype(np.float32),
    "frozen": RNG.standard_normal(3).astype(np.float32),
    "ids": np.arange(4),
    "layer.weight": RNG.standard_normal((5, 7)).astype(np.float16),
}
"""Masks of ``layer.weight`` have 5 bytes, and the last one 5 bits that stand for nothing."""

CHANGED = ("bias", "embed.weight", "layer.weight")


def expert(seed: int) -> Model:
    """The base with other values in what is not frozen."""
    rng = np.random.default_rng(seed)
    return {
        name: array + (0.1 * rng.standard_normal(array.shape)).astype(array.dtype)
        if name in CHANGED
        else array
        for name, array in BASE.items()
    }


@pytest.fixture(autouse=True)
def models(tmp_path: Path) -> Iterator[Path]:
    """A base and two experts ``a`` and ``b``, which no test may change."""
    root = tmp_path / "models"
    for name, model in {"base": BASE, "a": expert(1), "b": expert(2)}.items():
        write(root / name, model)
    before = tree(root)
    yield root
    assert tree(root) == before


CODECS: dict[str, dict[str, Any]] = {
    "tall": {"codec": "tall"},
    "candidates": {"codec": "tall", "lambda": [0.2, 0.6]},
    "emr": {"codec": "emr"},
    "magnitude": {"codec": "magnitude", "density": 0.3},
    "bitdelta": {"codec": "bitdelta"},
    "tsv_c": {"codec": "tsv_c", "fraction": 0.5},
    "twin": {"codec": "twin", "fraction": 0.5},
}


def packed(models: Path, kind: str = "tall", **options: Any) -> Path:
    """A store of the two experts, beside the models unless ``out`` says where."""
    request = {"out": models.parent / "store", **CODECS[kind], **options}
    tasks = {"a": models / "a", "b": models / "b"}
    pack(models / "base", request.pop("tasks", tasks), **request)
    return Path(request["out"])


def mask_lambda(kind: str) -> float | None:
    return 0.2 if kind == "candidates" else None


def loaded(store: Store, kind: str = "tall") -> dict[str, Model]:
    """All models of a store."""
    return {task: store.load(task, mask_lambda=mask_lambda(kind)) for task in store.tasks}


def flip(path: Path, tensor: str, byte: int, bit: int) -> None:
    """Turn over one bit of a tensor."""
    content = bytearray(path.read_bytes())
    n_header = int.from_bytes(content[:8], "little")
    begin, end = json.loads(content[8 : 8 + n_header])[tensor]["data_offsets"]
    content[8 + n_header + range(begin, end)[byte]] ^= 1 << bit
    path.write_bytes(content)


def assert_refused(read: Callable[[], object], *parts: object, kind: Any = InputError) -> None:
    """One line with these parts."""
    with pytest.raises(kind) as raised:
        read()
    line = str(raised.value)
    assert len(line.splitlines()) == 1
    for part in parts:
        assert str(part) in line, line


def assert_all_refuse(store: Store, name: str, lam: float | None, *parts: object) -> None:
    """Task ``a`` is not to be had in memory, nor on disk, nor is this one tensor of it."""
    out = store.path.parent / "out"
    for framework in ("numpy", "torch"):
        options: dict[str, Any] = {"framework": framework, "mask_lambda": lam}
        assert_refused(lambda: store.load("a", **options), *parts)  # noqa: B023
        assert_refused(lambda: store.tensor("a", name, **options), *parts)  # noqa: B023
    assert_refused(lambda: store.unpack("a", out, mask_lambda=lam), *parts)
    assert not out.exists()


# Damage.


STORED = [
    ("tall", "shared.safetensors", "layer.weight"),
    ("tall", "shared.safetensors", "bias"),
    ("tall", "tasks/a.safetensors", "layer.weight"),
    ("candidates", "candidates/a/0.2.safetensors", "layer.weight"),
    ("emr", "shared.safetensors", "layer.weight"),
    ("emr", "tasks/a.safetensors", "layer.weight"),
    ("magnitude", "shared.safetensors", "embed.weight"),
    ("magnitude", "tasks/a.safetensors", "embed.weight"),
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
        # What is intact is still to be had.
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


# store.json.


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what ``store.json`` says, with a checksum that is right."""
    data = json.loads((path / "store.json").read_text())
    change(data)
    del data["checksum"]
    text = json.dumps(data, sort_keys=True).encode()
    data["checksum"] = hashlib.blake2b(text, digest_size=8).hexdigest()
    (path / "store.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        ("[" * 100_000, "JSON"),
        ("[]", "expected \"format\": 'tallies-store'"),
        ("null", "expected \"format\": 'tallies-store'"),
        ("{}", "expected \"format\": 'tallies-store'"),
        ('{"format": "safetensors"}', "expected \"format\": 'tallies-store'"),
        ('{"format": "tallies-store"}', "is damaged: its checksum is"),
        ('{"format": "tallies-store", "version": 1}', "expected None; restore the file"),
        ('{"format": "tallies-store", "version": 1, "checksum": [1]}', "expected [1]; restore"),
        ('{"format": "tallies-store", "version": 2}', "reads versions up to 1; upgrade tallies"),
    ],
    ids=lambda text: str(text)[:40],
)
def test_another_store_json(models: Path, content: str | bytes, words: str) -> None:
    path = packed(models)
    file = path / "store.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused(lambda: Store.open(path), file, words)


def test_a_newer_version_is_not_read(models: Path) -> None:
    path = packed(models)
    edit(path, lambda data: data.update(version=2))
    words = ("has format version 2", "reads versions up to 1; upgrade tallies")
    assert_refused(lambda: Store.open(path), path / "store.json", *words)


def test_no_store(models: Path) -> None:
    words = ("is not a store: found no store.json", "'tallies pack'")
    for path in (models, models / "nowhere", models / "base" / FILE):
        assert_refused(lambda: Store.open(path), path, *words)  # noqa: B023


@pytest.mark.parametrize(
    "file", ["../models/a/model.safetensors", "tasks/../../x.safetensors", "/"]
)
def test_files_outside(models: Path, file: str) -> None:
    path = packed(models)

    def lead_out(data: dict[str, Any]) -> None:
        target = file if file != "/" else str(models / "a" / FILE)
        data["tasks"]["a"]["file"] = target
        data["checksums"][target] = data["checksums"].pop("tasks/a.safetensors")

    edit(path, lead_out)
    assert_refused(lambda: Store.open(path), path / "store.json", "which lies outside the store")


def test_fields_that_do_not_fit_together(models: Path) -> None:
    path = packed(models)
    whole = (path / "store.json").read_bytes()

    def lose(*keys: str) -> Callable[[dict[str, Any]], object]:
        return lambda data: [data.pop(key) for key in keys]

    changes: list[Callable[[dict[str, Any]], object]] = [
        lose("tensors"),
        lose("checksums"),
        lambda data: data.update(tasks=[]),
        lambda data: data["tensors"]["bias"].update(shape=None),
        lambda data: data["tasks"]["a"].update(more=1),
    ]
    for change in changes:
        (path / "store.json").write_bytes(whole)
        edit(path, change)
        assert_refused(lambda: Store.open(path), path / "store.json", "is damaged (")


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a JSON document lies."""
    for key in data if isinstance(data, dict) else range(len(data) if type(data) is list else 0):
        yield (*path, key)
        yield from places(data[key], (*path, key))


@pytest.mark.parametrize("kind", ["tall", "candidates", "bitdelta"])
def test_every_field_damaged(models: Path, kind: str) -> None:
    path = packed(models, kind)
    data = json.loads((path / "store.json").read_text())
    n_damaged = 0
    values: tuple[Any, ...] = (..., None, {}, "x", 7, 1.25)
    for place in places(data):
        for value in values:
            damaged = copy.deepcopy(data)
            inner = damaged
            for key in place[:-1]:
                inner = inner[key]
            if value is ...:
                del inner[place[-1]]
            else:
                inner[place[-1]] = value
            if damaged != data:
                (path / "store.json").write_text(json.dumps(damaged))
                assert_refused(lambda: Store.open(path), path / "store.json")
                n_damaged += 1
    assert n_damaged > 300


@settings(
    max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(st.data())
def test_a_bit_of_store_json_turned_over(models: Path, data: st.DataObject) -> None:
    """Each is an error or changes white space alone."""
    path = models.parent / "store"
    if not path.exists():
        packed(models)
        shutil.copyfile(path / "store.json", models.parent / "whole")
    whole = (models.parent / "whole").read_bytes()
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (path / "store.json").write_bytes(damaged)
    try:
        Store.open(path)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert json.loads(damaged) == json.loads(whole)


def test_store_json_laid_out_otherwise(models: Path) -> None:
    path = packed(models)
    before = loaded(Store.open(path))
    text = (path / "store.json").read_text()
    (path / "store.json").write_text(json.dumps(json.loads(text), sort_keys=True))
    assert_same_tensors(loaded(Store.open(path))["a"], before["a"])


# The base.


def other_base(models: Path, **changes: Any) -> Path:
    """The base with these tensors changed, or without those that are None."""
    changed = {**BASE, **{name.replace("_", "."): array for name, array in changes.items()}}
    return write(models.parent / "other", {name: a for name, a in changed.items() if a is not None})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bias": BASE["bias"] + np.eye(1, 9, 8, np.float32)[0]}, "'bias' has other values"),
        ({"frozen": -BASE["frozen"]}, "tensor 'frozen' has other values"),
        ({"ids": np.arange(4) + 1}, "tensor 'ids' has other values"),
        ({"bias": BASE["bias"].astype(np.float64)}, "'bias' is F64 [9], expected F32 [9]"),
        ({"layer_weight": np.zeros((7, 5), np.float16)}, "is F16 [7, 5], expected F16 [5, 7]"),
        ({"frozen": None}, "lacks tensor 'frozen'"),
        ({"more": np.zeros(1)}, "has tensor 'more'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_base(models: Path, changes: dict[str, Any], words: str) -> None:
    path = packed(models)
    other = other_base(models, **changes)
    print_ = json.loads((path / "store.json").read_text())["base"]["fingerprint"]
    line = (other, f"is not the base of {path}", words, f"(fingerprint {print_})")
    assert_refused(lambda: Store.open(path, other), *line)


def test_an_expert_is_not_the_base(models: Path) -> None:
    path = packed(models)
    assert_refused(lambda: Store.open(path, models / "a"), "is not the base of", "'bias' has other")


def test_the_base_moved(models: Path) -> None:
    elsewhere = models.parent / "elsewhere"
    shutil.copytree(models, elsewhere)
    path = packed(elsewhere)
    before = loaded(Store.open(path))
    (elsewhere / "base").rename(models.parent / "moved")
    words = (path, f"packed from {elsewhere / 'base'}, which is not there", "base=, --base")
    assert_refused(lambda: Store.open(path), *words)
    for task, model in before.items():
        assert_same_tensors(Store.open(path, models.parent / "moved").load(task), model)
    shutil.move(path, models.parent / "moved store")
    store = Store.open(models.parent / "moved store", base=models.parent / "moved")
    store.unpack("b", models.parent / "out")
    assert_holds(models.parent / "out", before["b"])


def test_a_base_in_shards_is_the_same_base(models: Path) -> None:
    path = packed(models)
    shards = write(models.parent / "shards", BASE, n_files=3)
    before = loaded(Store.open(path))
    assert_same_tensors(Store.open(path, shards).load("a"), before["a"])


# What is asked for.


def test_a_task_that_is_not_there(models: Path) -> None:
    store = Store.open(packed(models, tasks={"math": models / "a", "code": models / "b"}))
    words = (store.path, "task 'maths' is not known; did you mean 'math'? (known: math, code)")
    assert_refused(lambda: store.load("maths"), *words)
    assert_refused(lambda: store.tensor("maths", "bias"), *words)
    assert_refused(lambda: store.unpack("maths", models.parent / "out"), *words)
    assert_refused(lambda: store.tensor("math", "bais"), "tensor 'bais' is not known; did you mean")
    assert_refused(lambda: store.load("math", framework="jax"), "framework 'jax' is not known")
    assert not (models.parent / "out").exists()


def test_candidates_are_named(models: Path) -> None:
    store = Store.open(packed(models, "candidates"))
    assert_refused(lambda: store.load("a"), "task 'a' has candidates for lambda 0.2, 0.6; name one")
    assert_refused(lambda: store.load("a", mask_lambda=0.3), "lambda '0.3' is not known")
    assert not same_values(store.load("a", mask_lambda=0.2), store.load("a", mask_lambda=0.6))


def test_the_lambda_of_a_task_that_has_one(models: Path) -> None:
    store = Store.open(packed(models, mask_lambda={"a": 0.3, "b": 0.7}))
    store.load("a", mask_lambda=0.3)
    assert_refused(lambda: store.load("b", mask_lambda=0.3), "task 'b' has lambda 0.7, found 0.3")


def same_values(a: Model, b: Model) -> bool:
    return all(a[name].tobytes() == b[name].tobytes() for name in a)


def refused(models: Path, *parts: object, **options: Any) -> None:
    """Packing is refused with one line, and nothing is written."""
    before = tree(models.parent)
    assert_refused(lambda: packed(models, **options), *parts)
    assert tree(models.parent) == before


LONG = "é" * 65


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is empty"),
        (" a", "begins or ends with a space"),
        ("a ", "begins or ends with a space"),
        (".", "dot"),
        ("..", "dot"),
        (".hidden", "dot"),
        ("a.", "dot"),
        ("a/b", "names of files lack"),
        ("../a", "begins or ends with a dot"),
        ("a\\b", "names of files lack"),
        ("c:", "names of files lack"),
        ("a*", "names of files lack"),
        ("a\nb", "names of files lack"),
        ("a\0", "names of files lack"),
        ("a\udc80", "names of files lack"),
        (LONG, "is too long"),
        (7, "is not text"),
        (None, "is not text"),
    ],
    ids=repr,
)
def test_names_that_no_file_has(models: Path, name: Any, words: str) -> None:
    refused(models, "task ", words, tasks={"ok": models / "b", name: models / "a"})


def test_names_that_are_fine(models: Path) -> None:
    names = ["a b", "naïve 名", "x" * 128, "v1.2", "-", "store.json", "shared", "tasks"]
    store = Store.open(packed(models, tasks={name: models / "a" for name in names}))
    assert store.tasks == tuple(names)
    first, *others = loaded(store).values()
    assert all(same_values(first, other) for other in others)


def test_names_that_differ_in_case(models: Path) -> None:
    tasks = {"Math": models / "a", "math": models / "b"}
    refused(models, "task 'math': differs from 'Math' in case", tasks=tasks)
    # One letter in lower case, two in upper.
    refused(models, "in case", tasks={"straße": models / "a", "STRASSE": models / "b"})


def test_no_task(models: Path) -> None:
    refused(models, "tasks: found none, expected at least one", tasks={})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-0.1, "found -0.1, expected a finite number from 0 up"),
        (float("nan"), "found nan, expected a finite number"),
        (float("inf"), "found inf, expected a finite number"),
        (True, "found True, expected a finite number"),
        (None, "found None, expected a finite number"),
        ("much", "found 'much', expected a finite number"),
        ("0.2,", "found '', expected a finite number"),
        ([0.4, -1], "found -1, expected a finite number"),
        ([0.2, 0.4, 0.2], "found [0.2, 0.4, 0.2], expected different numbers"),
        ("0.2,0.20", "expected different numbers"),
        ([], "found [], expected different numbers"),
        ({"a": 0.4}, "has none for task 'b'; give one for each"),
        ({"a": 0.4, "b": 0.4, "c": 0.4}, "task 'c' is not known"),
        ({"a": 0.4, "b": [0.2, 0.4]}, "found [0.2, 0.4], expected a finite number"),
        ({"a": 0.4, "b": -1}, "found -1, expected a finite number"),
    ],
    ids=repr,
)
def test_lambdas_that_are_none(models: Path, value: Any, words: str) -> None:
    refused(models, "lambda: ", words, **{"lambda": value})
    refused(models, "lambda: ", words, mask_lambda=value)


def test_lambda_given_twice(models: Path) -> None:
    refused(models, "lambda: is given twice", mask_lambda=0.3, **{"lambda": 0.3})


def test_lambda_0_is_one(models: Path) -> None:
    store = Store.open(packed(models, mask_lambda=0))
    assert store.manifest.tasks["a"].mask_lambda == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codec": "tal"}, "codec 'tal' is not known; did you mean 'tall'?"),
        ({"codec": "magnitud"}, "did you mean 'magnitude'? (known: tall, emr, magnitude"),
        ({"codec": ""}, "codec '' is not known"),
        ({"codec": "magnitude", "desnity": 0.2}, "did you mean 'density'?"),
        ({"codec": "emr", "density": 0.2}, "'density'"),
        ({"codec": "emr", "lambda": 0.2}, "'lambda'"),
        ({"codec": "emr", "re-scale": "code"}, "did you mean 'rescale'?"),
        ({"codec": "emr", "rescale": "cod"}, "rescale"),
        ({"codec": "magnitude", "density": 1.5}, "density"),
        ({"codec": "magnitude", "density": float("nan")}, "density"),
        ({"codec": "tall", "shared": "tie"}, "shared"),
        ({"codec": "tall", "lambada": 0.2}, "did you mean 'lambda'?"),
        ({"shared_dtyp": "F32"}, "did you mean 'shared_dtype'?"),
        ({"shared_dtype": "F64"}, "'F64' is not known (known: base, F32, BF16, F16)"),
        ({"shared_dtype": "bfloat16"}, "'bfloat16' is not known"),
        ({"codec": "bitdelta", "shared_dtype": "F32"}, "'shared_dtype' is not known"),
        ({"nonfinite": "ignore"}, "nonfinite: found 'ignore', expected 'error' or 'propagate'"),
        ({"integers": "merge"}, "integers: found 'merge', expected 'equal' or 'base'"),
        ({"max_memory": "much"}, "size 'much': expected such as '5GB'"),
        ({"threads": 0}, "threads"),
    ],
    ids=str,
)
def test_wrong_options(models: Path, options: dict[str, Any], words: str) -> None:
    refused(models, words, **options)


# Values.


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tensor", CHANGED)
@pytest.mark.parametrize("kind", CODECS)
def test_values_that_are_not_finite(models: Path, kind: str, tensor: str, odd: float) -> None:
    own = expert(3)
    own[tensor].ravel()[[2, 5]] = odd
    path = write(models.parent / "odd", own)
    tasks = {"odd": path, "b": models / "b"}
    words = (f"tensor {tensor!r} has 2 NaN or infinite values, the first at element 2",)
    refused(models, path, *words, "propagate", kind=kind, tasks=tasks)
    store = Store.open(packed(models, kind, tasks=tasks, nonfinite="propagate"))
    loaded(store, kind)


def test_odd_values_that_nobody_changed(models: Path) -> None:
    odd = {**BASE, "frozen": np.array([np.nan, np.inf, 1], np.float32)}
    root = models.parent / "odd"
    for name, model in {"base": odd, "a": {**expert(1), "frozen": odd["frozen"]}}.items():
        write(root / name, model)
    pack(root / "base", {"a": root / "a"}, root / "store")
    found = Store.open(root / "store").tensor("a", "frozen")
    assert found.tobytes() == odd["frozen"].tobytes()


def test_a_shared_vector_that_overflows(models: Path) -> None:
    own = {**expert(1), "bias": BASE["bias"] + np.float32(40_000)}
    path = write(models.parent / "far", own)
    tasks = {"x": path, "y": path}
    words = ("tensor 'bias'", "the shared vector overflows F16", "shared_dtype=F32")
    refused(models, *words, tasks=tasks, shared_dtype="F16")
    packed(models, tasks=tasks)


def test_integers_that_differ(models: Path) -> None:
    own = write(models.parent / "own", {**expert(1), "ids": np.arange(4)[::-1].copy()})
    tasks = {"own": own, "b": models / "b"}
    refused(models, own, "tensor 'ids' is I64 and differs", "integers=base", tasks=tasks)
    store = Store.open(packed(models, tasks=tasks, integers="base"))
    assert np.array_equal(store.tensor("own", "ids"), BASE["ids"])


@pytest.mark.parametrize("kind", ["tall", "candidates", "emr", "magnitude"])
def test_an_expert_that_is_the_base(models: Path, kind: str) -> None:
    shutil.copytree(models / "base", models.parent / "same")
    tasks = {"same": models.parent / "same", "b": models / "b"}
    request: dict[str, Any] = dict(CODECS[kind])
    report = pack(models / "base", tasks, models.parent / "store", **request)
    warning = f"task 'same': {models.parent / 'same'} equals the base bit for bit"
    assert report.warnings == [warning]
    assert warning in str(report)
    same, other = report.tasks
    if kind != "magnitude":
        # Its threshold is 0, which every magnitude reaches.
        assert set(same.set_fraction.values()) == {0.0}
        lam = mask_lambda(kind)
        store = Store.open(models.parent / "store")
        assert_same_tensors(store.load("same", mask_lambda=lam), BASE)
        unpacked = store.unpack("same", models.parent / "out", mask_lambda=lam)
        assert unpacked.exact
    assert min(other.set_fraction.values()) > 0
    assert other.fingerprint != same.fingerprint == report.base_fingerprint


def test_experts_that_are_all_the_base(models: Path) -> None:
    for kind in ("tall", "emr", "magnitude", "bitdelta"):
        tasks = {"a": models / "base", "b": models / "base"}
        store = Store.open(packed(models, kind, tasks=tasks, overwrite=True))
        assert_same_tensors(store.load("b"), BASE)
        assert [file for file, tensors in store.files.items() if tensors] == []


# Where the output goes.


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("models", "is or contains the input"),
        ("models/base", "is or contains the input"),
        ("models/a", "is or contains the input"),
        ("models/base/store", "lies inside the input"),
        ("models/b/deep/store", "lies inside the input"),
        ("full", "is not empty; pass --overwrite to replace it"),
        ("full/file", "is a file, expected a directory"),
        ("", "expected a directory to create"),
    ],
)
def test_outputs_in_the_way(models: Path, out: str, words: str) -> None:
    (models.parent / "full").mkdir()
    (models.parent / "full/file").write_text("mine")
    refused(models, "output ", words, out=models.parent / out if out else "")
    if out.startswith("models"):
        refused(models, "output ", words, out=models.parent / out, overwrite=True)


@pytest.mark.parametrize("out", ["store", "store/out", "store/tasks", "models/base/out"])
def test_unpacking_into_an_input(models: Path, out: str) -> None:
    store = Store.open(packed(models))
    before = tree(models.parent)
    for overwrite in (False, True):
        assert_refused(
            lambda: store.unpack("a", models.parent / out, overwrite=overwrite),  # noqa: B023
            "output ",
            "the input",
        )
    assert tree(models.parent) == before


def test_overwrite_replaces_the_whole_store(models: Path) -> None:
    first = packed(models, "candidates")
    second = packed(models, "emr", tasks={"only": models / "b"}, overwrite=True)
    assert first == second
    files = {"store.json", "shared.safetensors", "tasks", "tasks/only.safetensors"}
    assert tree(second).keys() == files


# Failures in the middle.


def fail(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (PackRun, "_pack"),
        (PackRun, "_copy_dense"),
        (PackRun, "check_unchanged"),
        (Manifest, "to_json"),
        (Path, "write_text"),
        (os, "replace"),
        (os, "rename"),
    ],
)
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["disk full", "interrupt"],
)
@pytest.mark.parametrize("old", [False, True])
def test_failure_in_the_middle(
    models: Path,
    place: Any,
    name: str,
    error: BaseException,
    expected: type[BaseException],
    old: bool,
) -> None:
    if old:
        packed(models)
    before = tree(models.parent)
    with mock.patch.object(place, name, fail(error)), pytest.raises(expected) as raised:
        packed(models, "emr", overwrite=old)
    if expected is StorageError:
        assert str(raised.value).endswith("No space left on device")
    assert tree(models.parent) == before


def test_a_caller_stops_packing_from_its_progress(models: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        packed(models, progress=fail(KeyboardInterrupt()))
    assert os.listdir(models.parent) == ["models"]


FULL = """
import resource, sys
import tallies

base, task, out, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    tallies.pack(base, {"task": task}, out, overwrite=True)
except tallies.StorageError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [150_000, 10_000])
def test_disk_full_over_an_old_store(models: Path, limit: int) -> None:
    """Files beyond the limit fail to grow, as on a disk that is full: the mask, and all."""
    before = loaded(Store.open(packed(models)))
    for i, name in enumerate(("base", "task")):
        write(models.parent / "big" / name, {"w": np.full(100_000, i, np.float32)})
    files = tree(models.parent)
    big = models.parent / "big"
    store = models.parent / "store"
    arguments = map(str, (big / "base", big / "task", store, limit))
    command = [sys.executable, "-c", FULL, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "shared.safetensors: cannot reserve" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert tree(models.parent) == files
    for task, model in before.items():
        assert_same_tensors(Store.open(store).load(task), model)


# Killed.


class PackKiller(Killer):
    """The same process, which packs where that one merges."""

    SERVER = """
import json, sys
import tallies
from tests.support import killable

killable.merge = tallies.pack
for line in sys.stdin:
    print(json.dumps(killable._answer(json.loads(line))), flush=True)
"""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.SERVER],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def killer() -> Iterator[PackKiller]:
    process = PackKiller()
    yield process
    process.close()


def request(models: Path, **options: Any) -> dict[str, Any]:
    """The arguments of a packing, as JSON has them."""
    tasks = {name: str(models / name) for name in ("a", "b")}
    out = str(models.parent / "store")
    return {"base": str(models / "base"), "tasks": tasks, "out": out, "threads": 1, **options}


@pytest.mark.parametrize("old", [False, True])
def test_killed_at_every_moment(killer: PackKiller, models: Path, old: bool) -> None:
    store = models.parent / "store"
    new = tree(packed(models, "emr", threads=1))
    shutil.rmtree(store)
    before = tree(packed(models, "candidates")) if old else {}
    asked = request(models, codec="emr", overwrite=old)
    states = []
    for moment in range(1000):
        answer = killer.merge(die_at=moment, **asked)
        if not answer["killed"]:
            assert "error" not in answer
            break
        found = tree(store) if store.exists() else {}
        assert found in (before, new)
        states.append(found == new)
        if found == new and old:
            shutil.rmtree(store)
            packed(models, "candidates")
        elif found == new:
            shutil.rmtree(store)
    # What the killed ones left is gone, and the store is complete.
    assert tree(store) == new
    assert sorted(os.listdir(models.parent)) == ["models", "store"]
    assert len(states) > 20
    assert states == sorted(states)
    loaded(Store.open(store))


def test_killed_at_random_times(killer: PackKiller, models: Path) -> None:
    rng = np.random.default_rng(3)
    big = models.parent / "big"
    for name in ("base", "a", "b"):
        tensors = {f"t{i}": rng.standard_normal(300_000).astype(np.float32) for i in range(4)}
        write(big / name, tensors)
    asked = request(big, overwrite=True, max_memory="64KiB", out=str(models.parent / "store"))
    seconds = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        assert not killer.merge(**asked)["killed"]
        seconds = min(seconds, time.perf_counter() - start)
    store = models.parent / "store"
    new = tree(store)
    old = tree(packed(models, overwrite=True))
    n_killed = 0
    for i in range(12):
        n_killed += killer.merge(die_after=random.Random(i).uniform(0, seconds), **asked)["killed"]
        assert tree(store) in (old, new)
    assert n_killed > 0
    assert not killer.merge(**asked)["killed"]
    assert tree(store) == new
    assert sorted(os.listdir(models.parent)) == ["big", "models", "store"]
