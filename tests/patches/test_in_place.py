"""In place a model is changed completely or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import tallies
from tallies import InputError, StorageError, apply_patch, make_patch
from tallies._core import apply_changes
from tests.support.checkpoints import Model, assert_holds, write
from tests.support.command import COMMAND, Ended, assert_failed, tree
from tests.support.patches import altered, pair


@pytest.fixture
def models(tmp_path: Path) -> tuple[Model, Model]:
    """An old model in two files and a new one with other small files, and their patch."""
    old, new = pair(n=100_000)
    for name, model in (("old", old), ("new", new)):
        write(tmp_path / name, model, n_files=2, config={"name": name})
        (tmp_path / name / f"{name}.txt").write_text(name)
    make_patch(tmp_path / "old", tmp_path / "new", tmp_path / "patch")
    return old, new


def without_files(path: Path) -> dict[str, Any]:
    return {name: one for name, one in tree(path).items() if not name.endswith(".json")}


@pytest.mark.parametrize("sync", [None, False])
def test_changes_there_and_back(
    models: tuple[Model, Model], tmp_path: Path, sync: bool | None
) -> None:
    place = tmp_path / "old"
    before = tree(place)
    report = apply_patch(tmp_path / "patch", place, sync=sync)
    assert_holds(place, models[1])
    assert tree(place)["config.json"] == tree(tmp_path / "new")["config.json"]
    assert sorted(path.name for path in place.glob("*.txt")) == ["new.txt"]
    assert report.new_fingerprint == tallies.inspect(place)["fingerprint"]
    assert not [name for name in os.listdir(place) if name.startswith(".")]
    report = apply_patch(tmp_path / "patch", place, undo=True)
    assert_holds(place, models[0])
    assert report.kind == "undone"
    assert report.warnings == []
    assert report.small_files == {
        "config.json": "changed",
        "new.txt": "removed",
        "old.txt": "added",
    }
    assert tree(place) == before


def test_one_file(tmp_path: Path) -> None:
    old, new = pair()
    place = write(tmp_path / "model.safetensors", old)
    patch = make_patch(old, new).data
    assert patch is not None
    apply_patch(patch, place)
    assert_holds(place, new)
    apply_patch(patch, place, undo=True)
    assert_holds(place, old)
    assert os.listdir(tmp_path) == ["model.safetensors"]


# Failures in the middle.


class Halt(Exception):
    """The exception that the tests raise."""


class Passes:
    """Counts native passes, each over one part, and raises an error behind the last one allowed."""

    def __init__(self, allowed: int = 1000, error: BaseException | None = None) -> None:
        self.n, self._allowed, self._error = 0, allowed, error

    def __call__(self, **arguments: Any) -> Any:
        found = apply_changes(**arguments)
        self.n += 1
        if self.n == self._allowed and self._error is not None:
            raise self._error
        return found

    def __enter__(self) -> Passes:
        self._patches = [
            mock.patch("tallies.patches.works._MOST_TENSOR_BYTES", 0),
            mock.patch("tallies.patches.works.apply_changes", self),
            mock.patch("tallies.patches.journal.apply_changes", self),
        ]
        for one in self._patches:
            one.start()
        return self

    def __exit__(self, *error: object) -> None:
        for one in self._patches:
            one.stop()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageError),
        (Halt("my own"), Halt),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["disk full", "own", "interrupt"],
)
def test_a_failure_is_taken_back(
    models: tuple[Model, Model],
    tmp_path: Path,
    error: BaseException,
    expected: type[BaseException],
) -> None:
    place = write(tmp_path / "count", models[0])
    with Passes() as whole:
        apply_patch(tmp_path / "patch", place)
    before = tree(tmp_path)
    assert whole.n > 10
    for n in range(1, whole.n + 1):
        with Passes(n, error), pytest.raises(expected) as raised:
            apply_patch(tmp_path / "patch", tmp_path / "old")
        assert tree(tmp_path) == before
    if expected is StorageError:
        assert str(raised.value).endswith("No space left on device")


@pytest.mark.parametrize("name", ["patch", "dense"])
def test_disk_full(models: tuple[Model, Model], tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(1)
    sparse = {name: altered(rng, one, 1e-4) for name, one in models[0].items()}
    make_patch(models[0], sparse, tmp_path / "patch", overwrite=True)
    make_patch(models[0], models[1], tmp_path / "dense")
    before = tree(tmp_path)
    limit = 300_000
    sizes = [path.stat().st_size for path in (tmp_path / "old").glob("*.safetensors")]
    assert min(sizes) > limit
    run = subprocess.run(
        [*COMMAND, "apply", tmp_path / name, "--to", tmp_path / "old", "--in-place"],
        # Files beyond the limit fail to grow, as on a disk that is full.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    line = assert_failed(Ended(run.returncode, run.stdout, run.stderr), 3)
    assert "File too large" in line
    found = tree(tmp_path)
    journal = {one for one in found if ".tallies-apply" in one}
    if journal:
        # Files that are as large already could not be opened to write by this process at all.
        assert "--in-place --undo" in line
        apply_patch([], tmp_path / "old", undo=True)
    assert tree(tmp_path) == before


# Others.


def test_one_run_at_a_time(models: tuple[Model, Model], tmp_path: Path) -> None:
    lock = os.open(tmp_path / "old/.tallies-apply.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="another run is changing it; wait for it"):
        apply_patch(tmp_path / "patch", tmp_path / "old")
    os.close(lock)
    apply_patch(tmp_path / "patch", tmp_path / "old")
    assert_holds(tmp_path / "old", models[1])


@pytest.mark.parametrize(
    "how", ["open(sys.argv[1])", "mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=1)"]
)
def test_a_reader_is_told_of(models: tuple[Model, Model], tmp_path: Path, how: str) -> None:
    (file, _) = sorted((tmp_path / "old").glob("*.safetensors"))
    code = f"import mmap, os, sys\nheld = {how}\nprint(flush=True)\nsys.stdin.read()"
    reader = subprocess.Popen(
        [sys.executable, "-c", code, file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    reader.stdout.readline()
    report = apply_patch(tmp_path / "patch", tmp_path / "old")
    reader.communicate()
    (warning,) = report.warnings
    assert warning.startswith(f"{file.name} is open in {reader.pid} (")


def linked(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (linked, "is a link, and others would change"),
        (lambda path: os.link(path, path.parent.parent / "too"), "a file with several names"),
    ],
)
def test_files_of_others_are_refused(
    models: tuple[Model, Model], tmp_path: Path, act: Callable[[Path], object], words: str
) -> None:
    act(sorted((tmp_path / "old").glob("*.safetensors"))[0])
    before = tree(tmp_path)
    with pytest.raises(InputError, match=words):
        apply_patch(tmp_path / "patch", tmp_path / "old")
    assert tree(tmp_path) == before


def test_models_of_a_hub_and_nothing_are_refused(
    models: tuple[Model, Model], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="is no local path"):
        apply_patch(tmp_path / "patch", "hf://org/name")
    with pytest.raises(InputError, match="no such file"):
        apply_patch(tmp_path / "patch", tmp_path / "gone")
    with pytest.raises(InputError, match=r"tallies\.torch\.apply_patch"):
        apply_patch(tmp_path / "patch", models[0])  # type: ignore[arg-type]


def test_a_model_in_between_is_refused(models: tuple[Model, Model], tmp_path: Path) -> None:
    (tmp_path / "old/.tallies-apply").mkdir()
    with pytest.raises(InputError, match=r"or were until a run was killed; .* --in-place --undo"):
        tallies.inspect(tmp_path / "old")
    with pytest.raises(InputError, match=r"journal\.json: no such file"):
        apply_patch([], tmp_path / "old", undo=True)


def test_a_place_that_cannot_be_written_is_told_with_a_way_out(
    models: tuple[Model, Model], tmp_path: Path
) -> None:
    before = tree(tmp_path)
    refused = OSError(errno.EROFS, "Read-only file system", str(tmp_path / "old/x"))
    with (
        mock.patch("tallies.checkpoint.locks._locked", side_effect=refused),
        pytest.raises(StorageError, match=r"old/x: Read-only file system; name an output \(--out"),
    ):
        apply_patch(tmp_path / "patch", tmp_path / "old")
    assert tree(tmp_path) == before
