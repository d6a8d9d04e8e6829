"""A job that is killed at any of its calls leaves the old place or the new one."""

from __future__ import annotations

from pathlib import Path

from tests.faults.jobs import Faults, Job, every_job
from tests.faults.places import hidden, numbers, visible

KILL = 0


@every_job
def test_killed_at_any_call(faults: Faults, jobs: dict[str, Job], folder: Path, name: str) -> None:
    """Done again, the job gives the same and removes the remains."""
    job = jobs[name]
    job.begin(folder)
    old = visible(folder)
    n_calls = faults.run(job, folder)["n_calls"]
    new = visible(folder)
    n_old = 0
    for number in numbers(n_calls):
        job.begin(folder)
        assert faults.run(job, folder, number, number + 1, error=KILL)["killed"]
        found = visible(folder)
        if name != "apply in place":  # whose journal tells what is half done
            assert found in (old, new, {}), number
        if found == new:
            continue
        n_old += found == old
        said = faults.run(job, folder)
        assert "error" not in said, (number, said)
        assert visible(folder) == new, number
        assert not hidden(folder), number
    assert n_old > 0
