"""Arrays that a pass leaves in memory: read from their files once, whatever passes follow."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tallies import StorageError
from tallies._core import GramTask, Limits, Plan, Unit
from tallies.spec.dtypes import DTYPE_CODES

F32 = DTYPE_CODES["F32"]
SIZES = (1, 7, 100_003, 0, 64, 4096, 400_002)
ALL = range(len(SIZES))
ROOM = 1 << 26


def write(path: Path, seed: int) -> None:
    """Write other values of the same number into a file that may be open."""
    values = np.random.default_rng(seed).standard_normal(2 * sum(SIZES)).astype(np.float32)
    if not path.exists():
        path.touch()
    with open(path, "r+b") as file:
        file.write(values.tobytes())


def plan_of(path: Path) -> Plan:
    """Return a plan with a job of two tensors for each size."""
    plan, at = Plan(False), 0
    number = plan.open_to_read(str(path))
    for size in SIZES:
        places = [(number, at, F32), (number, at + 4 * size, F32)]
        plan.add_job(size, places, [])
        at += 8 * size
    return plan


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "values", 0)
    return tmp_path / "values"


def found(plan: Plan, limits: Limits | None = None) -> list[list[int]]:
    return plan.fingerprints(limits=limits or Limits(2, 1 << 20))


@pytest.mark.parametrize("io", range(3))
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("buffer", [1 << 12, 1 << 16, 1 << 24])
def test_the_first_whole_pass_is_the_last_that_reads(
    path: Path, threads: int, buffer: int, io: int
) -> None:
    before = found(plan_of(path))
    plan = plan_of(path)
    assert sum(plan.hold(jobs=ALL, n_bytes=ROOM)) == 8 * sum(SIZES)
    assert found(plan, Limits(threads, buffer, io=io)) == before
    write(path, 1)
    after = found(plan_of(path))
    assert after != before
    for other in (1 << 13, 1 << 22):
        assert found(plan, Limits(2, other, io=io)) == before
    plan.hold(jobs=[], n_bytes=ROOM)
    assert found(plan) == after


def test_other_passes_read_what_is_held(path: Path) -> None:
    limits = Limits(2, 1 << 16)

    def numbers(plan: Plan) -> object:
        grams = plan.gram(
            tasks=[GramTask(job=job, row_length=max(SIZES[job], 1)) for job in ALL],
            deltas=False,
            with_magnitudes=True,
            limits=limits,
        )
        units = [Unit(jobs=[job], ranks=[SIZES[job] // 3] * 2) for job in ALL]
        thresholds = plan.select(units=units, locate=True, limits=limits)
        rows = [[(one.bits, one.last_count, one.n_above) for one in row] for row in thresholds]
        return [bytes(one.table()) for one in grams], rows

    before = numbers(plan_of(path))
    plan = plan_of(path)
    plan.hold(jobs=ALL, n_bytes=ROOM)
    assert numbers(plan) == before
    write(path, 1)
    assert numbers(plan) == before
    assert numbers(plan_of(path)) != before


def test_samples_and_parts_of_tensors_hold_nothing(path: Path) -> None:
    plan = plan_of(path)
    plan.hold(jobs=ALL, n_bytes=ROOM)
    largest = len(SIZES) - 1
    plan.guess(
        units=[Unit(jobs=[largest], ranks=[1000, 1000])], locate=False, limits=Limits(2, 1 << 16)
    )
    write(path, 1)
    assert found(plan) == found(plan_of(path))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
def test_jobs_that_do_not_fit_are_read_again(path: Path, share: float) -> None:
    plan = plan_of(path)
    room = int(8 * sum(SIZES) * share)
    assert sum(plan.hold(jobs=ALL, n_bytes=room)) <= room
    before = found(plan)
    write(path, 1)
    after, now = found(plan_of(path)), found(plan)
    assert all(one in (old, new) for one, old, new in zip(now, before, after, strict=True))
    assert now[-1] == after[-1] or share == 0.9
    assert now[4] == (before[4] if share >= 0.01 else after[4])


def test_jobs_one_after_the_other_share_the_memory(path: Path) -> None:
    before, plan = found(plan_of(path)), plan_of(path)
    for job in (*ALL, *reversed(ALL)):
        plan.hold(jobs=[job], n_bytes=ROOM)
        assert found(plan) == before
        assert found(plan) == before


def test_jobs_of_the_same_arrays_share_what_is_held(path: Path) -> None:
    plan, before = plan_of(path), found(plan_of(path))
    number, size = 0, SIZES[2]
    places = [(number, at, F32) for at in (8 * sum(SIZES[:2]), 8 * sum(SIZES[:2]) + 4 * size)]
    plan.add_job(size, places, [])
    plan.hold(jobs=[2], n_bytes=ROOM)
    plan.add_job(size, places, [])
    plan.fill(limits=Limits(2, 1 << 16))
    write(path, 1)
    after = found(plan_of(path))
    now = found(plan)
    assert now[:7] == [*after[:2], before[2], *after[3:]]
    assert now[7:] == [before[2]] * 2
    # The memory goes to others, and all three lose it.
    plan.hold(jobs=[0, 6], n_bytes=ROOM)
    plan.fill(limits=Limits(2, 1 << 16))
    write(path, 2)
    last, now = found(plan_of(path)), found(plan)
    assert now[:7] == [after[0], *last[1:6], after[6]]
    assert now[7:] == [last[2]] * 2


def test_what_does_not_fit_is_not_filled(path: Path) -> None:
    plan = plan_of(path)
    held = plan.hold(jobs=ALL, n_bytes=100_000)
    assert held == [8, 56, 0, 0, 512, 32768, 0]
    moved: list[int] = []
    plan.fill(limits=Limits(2, 1 << 16), progress=moved.append)
    assert sum(moved) == sum(held)


class _Stop(Exception):
    pass


@pytest.mark.parametrize("n_calls", [0, 1])
def test_a_pass_that_is_stopped_leaves_nothing(path: Path, n_calls: int) -> None:
    plan = plan_of(path)
    plan.hold(jobs=ALL, n_bytes=ROOM)
    calls = iter(range(n_calls))

    def progress(_: int) -> None:
        if next(calls, None) is None:
            raise _Stop

    tasks = [GramTask(job=len(SIZES) - 1, row_length=3)]
    with suppress(_Stop):
        plan.gram(
            tasks=tasks,
            deltas=False,
            with_magnitudes=False,
            limits=Limits(1, 1 << 12),
            progress=progress,
        )
    expected = found(plan_of(path))
    assert found(plan) == expected
    assert found(plan) == expected


def test_a_read_that_fails_leaves_nothing(path: Path) -> None:
    plan, whole = plan_of(path), path.read_bytes()
    plan.hold(jobs=ALL, n_bytes=ROOM)
    os.truncate(path, len(whole) - 1)
    with pytest.raises(StorageError, match="truncated while being read"):
        found(plan)
    path.write_bytes(whole)
    assert found(plan) == found(plan_of(path))


def test_a_job_that_the_plan_lacks_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="job"):
        plan_of(path).hold(jobs=[len(SIZES)], n_bytes=ROOM)
