"""A call to the system that fails is an error of the job, and leaves nothing half made."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from tests.faults.jobs import FOREVER, Faults, Job, every_job
from tests.faults.places import hidden, numbers, visible


@every_job
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_one_call_fails(
    faults: Faults, jobs: dict[str, Job], folder: Path, name: str, error: int
) -> None:
    """The place is old or new, and the job done again leaves nothing of the first attempt."""
    job = jobs[name]
    job.begin(folder)
    old = visible(folder)
    n_calls = faults.run(job, folder)["n_calls"]
    new = visible(folder)
    assert new != old
    assert not hidden(folder)
    n_errors = 0
    for number in numbers(n_calls):
        job.begin(folder)
        said = faults.run(job, folder, number, number + 1, error=error)
        found = visible(folder)
        if "error" in said:
            n_errors += 1
            assert said["kind"] == "StorageError", (number, said)
            assert str(folder) in said["error"], (number, said)
            assert found in (old, new), (number, said)
        else:
            assert found == new, (number, said)
        if hidden(folder) and found == old:
            assert "error" not in faults.run(job, folder), number
            assert visible(folder) == new
            assert not hidden(folder), number
    assert n_errors > n_calls / 4


@every_job
def test_a_file_that_cannot_be_closed_is_not_taken_for_written(
    faults: Faults, jobs: dict[str, Job], folder: Path, name: str, tmp_path: Path
) -> None:
    """File systems of networks tell of a full disk as late as that."""
    job = jobs[name]
    job.begin(folder)
    old = visible(folder)
    log = tmp_path / "log"
    faults.run(job, folder, kinds=" close ", log=str(log))
    closed = [line.split("\t")[1] for line in log.read_text().splitlines()]
    written = [n for n, path in enumerate(closed) if path.endswith((".safetensors", ".json"))]
    assert written
    for number in written:
        job.begin(folder)
        said = faults.run(job, folder, number, number + 1, error=errno.ENOSPC, kinds=" close ")
        assert said.get("kind") == "StorageError", (closed[number], said)
        assert visible(folder) == old, (closed[number], said)


@every_job
def test_the_disk_is_full_from_one_call_on(
    faults: Faults, jobs: dict[str, Job], folder: Path, name: str
) -> None:
    job = jobs[name]
    job.begin(folder)
    old = visible(folder)
    options: dict[str, Any] = {"kinds": " create write size reserve mkdir ", "error": errno.ENOSPC}
    n_calls = faults.run(job, folder, **options)["n_calls"]
    for number in numbers(n_calls, 60):
        job.begin(folder)
        said = faults.run(job, folder, number, FOREVER, **options)
        assert said.get("kind") == "StorageError", (number, said)
        assert visible(folder) == old, (number, said)


@every_job
def test_interrupted_calls_are_made_again(
    faults: Faults, jobs: dict[str, Job], folder: Path, name: str
) -> None:
    job = jobs[name]
    job.begin(folder)
    kinds = " create open write overwrite size reserve flush "
    options: dict[str, Any] = {"kinds": kinds, "error": errno.EINTR, "sync": True}
    n_calls = faults.run(job, folder, **options)["n_calls"]
    new = visible(folder)
    for number in numbers(n_calls, 60):
        job.begin(folder)
        said = faults.run(job, folder, number, number + 1, **options)
        assert "error" not in said, (number, said)
        assert visible(folder) == new, (number, said)
