"""Some tensors of a task, without the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import tallies
from tallies import InputError, Store
from tests.support import command
from tests.support.checkpoints import Model, write

CODECS: dict[str, dict[str, Any]] = {"lossless": {}, "tall": {}, "sparse": {"density": "exact"}}


@pytest.fixture(params=CODECS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Model]:
    if request.param == "lossless":
        pytest.importorskip("zstandard", reason="the extra zstd is not installed")
    rng = np.random.default_rng(1)
    base = {name: rng.normal(size=(70, 1000)).astype(np.float32) for name in "abc"}
    base["steps"] = np.arange(3)
    task = base | {name: base[name] + np.float32(0.5) for name in "ab"}
    write(tmp_path / "base", base)
    write(tmp_path / "task", task)
    tasks = {"one": tmp_path / "task", "two": tmp_path / "base"}
    options = CODECS[request.param]
    tallies.pack(tmp_path / "base", tasks, tmp_path / "s", codec=request.param, **options)
    return tmp_path / "s", Store.open(tmp_path / "s").load("one")


def test_named_tensors_are_those_of_the_whole(store: tuple[Path, Model], tmp_path: Path) -> None:
    path, whole = store
    names = ["b", "steps", "c"]
    found = Store.open(path).load("one", tensors=names)
    assert list(found) == names
    report = Store.open(path).unpack("one", tmp_path / "some.safetensors", tensors=names)
    assert report.tensors == sorted(names)
    assert report.bytes_read < 3 * sum(whole[name].nbytes for name in names)
    stored = load_file(tmp_path / "some.safetensors")
    assert sorted(stored) == sorted(names)
    for name in names:
        assert found[name].tobytes() == stored[name].tobytes() == whole[name].tobytes()


def test_the_command_writes_them(store: tuple[Path, Model], tmp_path: Path) -> None:
    path, whole = store
    out = tmp_path / "a.safetensors"
    done = command.tallies("unpack", path, "one", out, "--tensor", "a", "--tensor", "a")
    assert done.status == 0
    assert "1 tensor of the task" in done.out
    assert load_file(out)["a"].tobytes() == whole["a"].tobytes()


def test_what_is_refused(store: tuple[Path, Model], tmp_path: Path) -> None:
    opened = Store.open(store[0])
    with pytest.raises(InputError, match="tensor 'x'"):
        opened.load("one", tensors=["a", "x"])
    with pytest.raises(InputError, match="tensor 'x'"):
        opened.unpack("one", tmp_path / "x.safetensors", tensors=["x"])
    with pytest.raises(InputError, match=r"ends in \.safetensors, as some tensors alone"):
        opened.unpack("one", tmp_path / "directory", tensors=["a"])
    with pytest.raises(InputError, match="no tensors to restore"):
        opened.unpack("one", tmp_path / "x.safetensors", tensors=[])
    assert not (tmp_path / "x.safetensors").exists()
