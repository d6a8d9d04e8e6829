"""The output is absent or the complete old one when a run fails in the middle."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tallies import StorageError, merge
from tallies.engine.passes import Passes
from tallies.merging.result import MergeResult
from tallies.merging.run import MergeRun
from tests.support import stages
from tests.support.checkpoints import read
from tests.support.command import COMMAND, Ended, assert_failed, tallies, ties, tree
from tests.support.outputs import at_combine, fail, old_output
from tests.support.stages import OPTIONS

pytestmark = pytest.mark.usefixtures("inputs_stay")


# Failures in the middle.


class Halt(Exception):
    """The exception that the tests raise."""


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "patch",
    [
        lambda error: at_combine(2, fail(error)),
        lambda error: mock.patch.object(Passes, "guess_model", fail(error)),
        lambda error: mock.patch.object(Passes, "settle_majority", fail(error)),
        lambda error: mock.patch("shutil.copyfile", fail(error)),
        lambda error: mock.patch.object(MergeResult, "report", fail(error)),
        lambda error: mock.patch.object(Path, "write_text", fail(error)),
        lambda error: mock.patch("os.rename", fail(error)),
    ],
    ids=["combine", "survey", "repair", "copy", "report", "report file", "rename"],
)
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageError),
        (OSError("something"), StorageError),
        (Halt("my own"), Halt),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["disk full", "error without number", "own", "interrupt"],
)
def test_failure_in_the_middle(
    recipe: dict[str, Any],
    tmp_path: Path,
    old: bool,
    patch: Callable[[BaseException], Any],
    error: BaseException,
    expected: type[BaseException],
) -> None:
    out = tmp_path / "new" / "deep" / "out"
    if old:
        out.parent.mkdir(parents=True)
        old_output(out)
    before = tree(tmp_path)
    with patch(error), pytest.raises(expected) as raised:
        merge(recipe, out, overwrite=old, **OPTIONS)
    assert tree(tmp_path) == before
    if expected is StorageError:
        assert str(raised.value).endswith(("No space left on device", "something"))
        assert "None" not in str(raised.value)


def test_a_caller_stops_the_merge_from_its_progress(recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Halt):
        merge(recipe, tmp_path / "out", progress=fail(Halt()), **OPTIONS)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("limit", "words"),
    [(40_000, "model-00001-of-00005.safetensors: cannot reserve"), (70_000, "vocab.txt: cannot")],
)
def test_disk_full(recipe: dict[str, Any], tmp_path: Path, limit: int, words: str) -> None:
    shutil.copytree(Path(recipe["base_model"]).parent, tmp_path / "models")
    (tmp_path / "models/base/tokenizer/vocab.txt").write_bytes(bytes(80_000))
    old_output(tmp_path / "out")
    before = tree(tmp_path)
    models = [tmp_path / "models" / name for name in "xyz"]
    run = subprocess.run(
        [
            *COMMAND,
            *ties(*models, base=tmp_path / "models/base", out=tmp_path / "out"),
            *("--overwrite", "--max-shard-size=50000"),
        ],
        # Files beyond the limit fail to grow, as on a disk that is full.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    line = assert_failed(Ended(run.returncode, run.stdout, run.stderr), 3)
    assert words in line
    assert line.endswith("File too large")
    assert tree(tmp_path) == before


# Inputs that change while they are read.


@pytest.fixture
def own_models(tmp_path: Path) -> Path:
    """A directory with models that a test may change."""
    stages.models(tmp_path / "models")
    return tmp_path / "models"


def merge_while(own: Path, number: int, act: Callable[[], object]) -> Ended:
    models = [own / name for name in "xyz"]
    request = ties(*models, base=own / "base", out=own.parent / "new/out", more="--threads=1")
    with at_combine(number, act):
        return tallies(*request, "--max-memory=64KiB", "--max-shard-size=50000")


@pytest.mark.parametrize("n_bytes", [0, 100, 60_000])
def test_file_that_shrinks(own_models: Path, n_bytes: int) -> None:
    shard = own_models / "y/model-00001-of-00002.safetensors"
    ended = merge_while(own_models, 1, lambda: os.truncate(shard, n_bytes))
    line = assert_failed(ended, 3)
    assert f"{shard}: ends at byte " in line
    assert line.endswith("it was truncated while being read")
    assert os.listdir(own_models.parent) == ["models"]


def test_copied_tensor_in_a_file_that_shrinks(own_models: Path) -> None:
    (shard,) = own_models.glob("base/*00002-of-00002.safetensors")
    assert "ints" in read(own_models / "base")
    copy = MergeRun._copy_tensors

    def cut_and_copy(self: MergeRun, *arguments: Any) -> None:
        os.truncate(shard, 1000)
        copy(self, *arguments)

    # The first file has nothing to copy.
    with mock.patch.object(MergeRun, "_copy_tensors", cut_and_copy):
        ended = merge_while(own_models, -1, lambda: None)
    assert f"{shard}: " in assert_failed(ended, 3)
    assert os.listdir(own_models.parent) == ["models"]


@pytest.mark.parametrize("seconds", [-10, 10])
def test_file_that_is_touched(own_models: Path, seconds: int) -> None:
    (shard,) = own_models.glob("base/*00001-of-00002.safetensors")
    when = shard.stat().st_mtime + seconds
    ended = merge_while(own_models, 1, lambda: os.utime(shard, (when, when)))
    line = assert_failed(ended, 3)
    assert f"{shard}: changed while it was being read" in line
    assert line.endswith("try again when nothing writes to it")
    assert os.listdir(own_models.parent) == ["models"]


def test_file_that_grows(own_models: Path) -> None:
    (shard,) = own_models.glob("z/*00001-of-00002.safetensors")
    size = shard.stat().st_size
    ended = merge_while(own_models, 1, lambda: os.truncate(shard, size + 1))
    assert f"{shard}: changed while it was being read (from {size} to {size + 1} bytes" in (
        assert_failed(ended, 3)
    )
    assert os.listdir(own_models.parent) == ["models"]


@pytest.mark.parametrize("file", ["z/model-00001-of-00002.safetensors", "base/tokenizer/vocab.txt"])
def test_file_that_vanishes(own_models: Path, file: str) -> None:
    line = assert_failed(merge_while(own_models, 1, (own_models / file).unlink), 3)
    assert f"{own_models / file}: cannot be " in line
    assert os.listdir(own_models.parent) == ["models"]
