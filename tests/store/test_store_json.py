"""``store.json`` is checked before anything is read by it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallies import InputError, Store
from tests.support.checkpoints import (
    FILE,
    assert_same_tensors,
)
from tests.support.stores import assert_refused, edit, loaded, packed


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
    """Return the place of every value of a JSON document."""
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


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["tasks"]["a"].update(source=7),
        lambda data: data["tasks"]["a"].update(candidates=0),
        lambda data: data["tasks"]["a"].update(borrowed={"bias": 1.5}),
        lambda data: data["tasks"]["a"].update(n_set=3),
        lambda data: data["tensors"]["bias"].update(kind=["tied"]),
        lambda data: data["tensors"]["bias"].update(kind="tied", tied_to=2**63),
        lambda data: data["tensors"]["bias"].update(kind="tied", tied_to=["embed.weight"]),
        lambda data: data["tensors"]["bias"].update(kind="tied", tied_to="absent"),
    ],
    ids=["source", "candidates", "borrowed", "n_set", "kind", "number", "list", "absent"],
)
def test_a_value_of_another_kind_is_refused(
    models: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    store = packed(models)
    edit(store, change)
    assert_refused(lambda: Store.open(store), "store.json", "is damaged", "restore the file")
