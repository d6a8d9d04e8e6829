"""As many experts as a merge takes, with few open files and little of a disk."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from tallies import InputError, merge
from tallies.engine.passes import Passes
from tests.support.checkpoints import read, write
from tests.support.command import COMMAND

N_EXPERTS = 256


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Models of whole numbers, whose sums are exact."""
    root = tmp_path_factory.mktemp("experts")
    return [write(root / f"{i}", {"w": np.full((9, 5), i, np.float32)}) for i in range(N_EXPERTS)]


@pytest.mark.parametrize("soft", [256, 1024])
def test_within_the_limit_of_open_files(experts: list[Path], tmp_path: Path, soft: int) -> None:
    """The soft limit is raised as far as the hard one allows; both are of a usual system."""
    command = [*COMMAND, "merge", "--method=linear", *[f"--model={one}" for one in experts]]
    done = subprocess.run(
        [*command, f"--out={tmp_path}/out", "--quiet", "--threads=2"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, 4096)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (read(tmp_path / "out")["w"] == np.float32(127.5)).all()


def n_bytes(root: Path) -> int:
    """Return the bytes that all files below a directory take of the disk."""
    files = (path.lstat() for path in root.rglob("*") if path.is_file())
    return sum(status.st_blocks * 512 for status in files)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_merge_takes_no_more_of_the_disk_than_its_result_and_a_file(
    experts: list[Path], tmp_path: Path, overwrite: bool
) -> None:
    """An old result stays until the new one is whole, so that its room is not counted."""
    models = []
    for i in range(3):
        tensors = {f"t{j}": np.full(300_000, i + j, np.float32) for j in range(6)}
        models.append({"model": str(write(tmp_path / f"models/{i}", tensors))})
    recipe = {"merge_method": "linear", "models": models}
    place = tmp_path / "place"
    place.mkdir()
    options = {"max_shard_size": "1300KB", "max_memory": "1MiB", "threads": 2}
    if overwrite:
        merge(recipe, place / "out", **options)
    before = n_bytes(place)
    found = []
    combine = Passes.combine

    def measured(self: Passes, jobs: object) -> None:
        combine(self, jobs)
        found.append(n_bytes(place) - before)

    with mock.patch.object(Passes, "combine", measured):
        report = merge(recipe, place / "out", overwrite=overwrite, **options)
    sizes = [one.stat().st_size for one in (place / "out").glob("*.safetensors")]
    assert len(sizes) == len(report.output.files) == len(found) == 6
    assert max(found) <= sum(sizes) + max(sizes)
    assert os.listdir(place) == ["out"]


def test_a_disk_without_room_is_told_before_anything_is_read(
    experts: list[Path], tmp_path: Path
) -> None:
    recipe = {"merge_method": "linear", "models": [{"model": str(one)} for one in experts[:2]]}
    status = os.statvfs(tmp_path)
    little = os.statvfs_result((*status[:4], 0, *status[5:]))
    with (
        mock.patch("os.statvfs", return_value=little),
        mock.patch.object(Passes, "combine") as combine,
        pytest.raises(InputError, match=r"but the file system has only 0 free; make room"),
    ):
        merge(recipe, tmp_path / "out")
    assert not combine.called
    assert os.listdir(tmp_path) == []
