"""Jobs that are killed at random times, TALLIES_KILLS of each, over what may be there.

With ``-rP`` each job prints how many were killed, and in which state the kills left the place.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from tallies import InputError, Store, merge
from tallies.inspection.verify import verify
from tests.faults.jobs import Faults, Job, every_job
from tests.faults.places import Tree, hidden, visible
from tests.support.checkpoints import data_bytes
from tests.support.resuming import FILES, Run, workspace

N_KILLS: Final = int(os.environ.get("TALLIES_KILLS", "6"))


def other_results(jobs: Mapping[str, Job]) -> dict[str, dict[str, Any]]:
    """Return the arguments with which a job makes an older result at its place."""
    models = jobs["patch"].arguments
    recipe = {**jobs["merge"].arguments["config"], "parameters": {"density": 0.3}}
    return {
        "merge": {"config": recipe},
        "sweep": {"grid": {"density": [0.5]}},
        "pack": {"codec": "tall"},
        "unpack": {"task": "b"},
        "patch": {"old": models["new"], "new": models["old"]},
        "apply": {"to": models["new"], "undo": True},
    }


def moments(job: Job, folder: Path, faults: Faults, seed: str) -> Iterator[float]:
    """Return random times of the processor between the begin of a job and shortly after its end."""
    seconds = []
    for _ in range(3):
        job.begin(folder)
        said = faults.run(job, folder)
        assert "error" not in said
        seconds.append(said["seconds"])
    rng = random.Random(seed)
    return (rng.uniform(0, 1.1 * min(seconds)) for _ in range(N_KILLS))


def finished_files(out: Path) -> int:
    """Count the files that the journal of a run that stopped calls finished."""
    try:
        lines = (workspace(out) / "journal").read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    return sum(b'{"file": ' in line and line.endswith(b"\n") for line in lines)


def load(job: Job, place: Path) -> None:
    """Read all of a result, whose checksums and headers are compared."""
    if job.call in ("pack", "add"):
        store = Store.open(place, base=job.arguments["base"])
        for task in store.tasks:
            store.load(task)
    elif job.call == "sweep":
        for one in place.glob("*/tallies.json"):
            verify(one.parent)
    elif job.call != "make_patch":
        verify(place, nonfinite="warn")


@every_job
def test_killed_at_random_times(
    faults: Faults, jobs: dict[str, Job], folder: Path, name: str
) -> None:
    """The place is absent, or holds the old or the new result whole; done again it is the new."""
    job = jobs[name]
    place = job.begin(folder)
    faults.run(job, folder)
    new = visible(folder)
    load(job, place)
    befores: list[tuple[str, Tree]] = []
    job.begin(folder)
    first = visible(folder)
    if others := other_results(jobs).get(name):
        older = replace(job, arguments={**job.arguments, **others})
        assert "error" not in faults.run(older, folder)
        load(job, place)
        befores += [("old", visible(folder)), ("new", new)]
    befores.append(("first", first))
    rng = random.Random(name)
    left: Counter[str] = Counter()
    for after in moments(job, folder, faults, name):
        job.begin(folder)
        kind, before = rng.choice(befores)
        if kind != "first":
            faults.run(older if kind == "old" else job, folder)
        options = {"overwrite": True} if others else {}
        said = faults.run(job, folder, die_at_seconds=after, **options)
        found = visible(folder)
        if said["killed"]:
            left["new" if found == new != before else "before" if found == before else "half"] += 1
        if name != "apply in place":  # whose journal tells what is half done
            assert found in (before, new), (kind, after)
        if found == new != before:
            continue
        assert "error" not in faults.run(job, folder, **options), (kind, after)
        assert visible(folder) == new, (kind, after)
        assert not hidden(folder), (kind, after)
    print(f"{name}: {left.total()} killed, which left {dict(left)}")
    assert left


def test_resumed_after_random_times(faults: Faults, jobs: dict[str, Job], folder: Path) -> None:
    """At most the file in hand is merged again, and another recipe is refused."""
    job = jobs["merge"]
    out = job.begin(folder)
    faults.run(job, folder)
    whole = data_bytes(out)
    recipe = job.arguments["config"]
    other = {**recipe, "parameters": {"density": 0.3}}
    n_refused = 0
    for after in moments(job, folder, faults, "resumed"):
        job.begin(folder)
        faults.run(job, folder, die_at_seconds=after, resume=True)
        if out.exists():
            assert data_bytes(out) == whole
            continue
        n_finished = finished_files(out)
        if n_finished > 0:
            with pytest.raises(InputError, match=r"density.* since the run that stopped"):
                merge(other, out, resume=True)
            n_refused += 1
        run = Run(recipe, out)
        assert run.report is not None
        assert len(run.combined) <= len(FILES) - n_finished, after
        assert data_bytes(out) == whole
        assert not hidden(folder)
    assert n_refused > 0 or N_KILLS < 50
