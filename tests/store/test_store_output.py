"""Packing replaces its output whole, or leaves everything as it was."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tallies import StorageError, Store
from tallies.store.families.masked import Masked
from tallies.store.manifest import Manifest
from tallies.store.packing.run import PackRun
from tests.support.checkpoints import (
    assert_same_tensors,
    write,
)
from tests.support.command import tree
from tests.support.stores import assert_refused, fail, loaded, packed, refused


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


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (Masked, "pack"),
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
