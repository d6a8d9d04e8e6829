"""With ``sync``, what is renamed into place is on the disk before, and its new name after."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.jobs import Faults, Job
from tests.faults.places import visible


class Call(NamedTuple):
    """One line of the record."""

    kind: str
    path: Path
    to: Path


def calls(log: Path) -> list[Call]:
    lines = (line.split("\t") for line in log.read_text().splitlines())
    return [Call(kind, Path(path), Path(to)) for kind, path, to in lines]


def unflushed(record: list[Call], end: int, below: Path) -> set[Path]:
    """Return files and folders that were changed before a call and not flushed since."""
    dirty: set[Path] = set()
    for kind, path, to in record[:end]:
        if kind in ("write", "overwrite", "size", "reserve"):
            dirty.add(path)
        elif kind in ("create", "mkdir"):
            dirty |= {path, path.parent}
        elif kind == "rename":
            dirty = {to if one == path else one for one in dirty} | {to.parent}
        elif kind == "flush":
            dirty.discard(path)
    return {path for path in dirty if path == below or below in path.parents}


@pytest.mark.parametrize("name", ["merge", "sweep", "pack", "unpack", "add", "patch", "apply"])
def test_a_result_is_flushed_before_it_is_renamed(
    faults: Faults, jobs: dict[str, Job], folder: Path, tmp_path: Path, name: str
) -> None:
    job = jobs[name]
    place = job.begin(folder)
    log = tmp_path / "log"
    assert "error" not in faults.run(job, folder, log=str(log), sync=True)
    record = calls(log)
    # A directory is in the way of the first attempt to rename, and the second one exchanges both.
    renamed = max(n for n, call in enumerate(record) if call.kind == "rename" and call.to == place)
    assert unflushed(record, renamed, record[renamed].path) == set()
    assert any(call.kind == "flush" and call.path == folder for call in record[renamed:])
    removed = [n for n, call in enumerate(record) if call.kind == "remove"]
    assert removed
    assert min(removed) > renamed


def test_in_place_the_journal_is_on_the_disk_before_the_model_changes(
    faults: Faults, jobs: dict[str, Job], folder: Path, tmp_path: Path
) -> None:
    job = jobs["apply in place"]
    place = job.begin(folder)
    names = {place / name for name in os.listdir(place)}
    before = visible(folder)
    log = tmp_path / "log"
    assert "error" not in faults.run(job, folder, log=str(log), sync=True)
    assert visible(folder) != before
    record = calls(log)
    changes = [
        n for n, call in enumerate(record) if call.kind == "overwrite" and call.path in names
    ]
    journal = place / ".tallies-apply"
    complete = next(
        n for n, call in enumerate(record) if call.kind == "rename" and call.to == journal
    )
    assert complete < changes[0]
    assert unflushed(record, complete, record[complete].path) == set()
    named = next(n for n, call in enumerate(record) if n > complete and call.path == place)
    assert record[named].kind == "flush"
    assert named < changes[0]
    dropped = next(
        n for n, call in enumerate(record) if call.kind == "rename" and call.path == journal
    )
    assert changes[-1] < dropped
    for path in {record[n].path for n in changes}:
        assert unflushed(record, dropped, path) == set()
