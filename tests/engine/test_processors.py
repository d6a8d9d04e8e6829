"""Runs take the threads that the environment, the cores and control groups allow."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tallies.engine import control_groups
from tallies.engine.limits import n_threads
from tallies.engine.processors import default_threads, processor_quota


@pytest.fixture(autouse=True)
def quota_read_anew() -> Iterator[None]:
    processor_quota.cache_clear()
    yield
    processor_quota.cache_clear()


def give(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], n_cores: int = 64) -> None:
    """Let the system have these files and cores, and no OMP_NUM_THREADS."""
    monkeypatch.setattr(
        control_groups, "lines", lambda path: files.get(str(path), "").splitlines(keepends=True)
    )
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(n_cores)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 64),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/cpu.max": "250000 100000\n"}, 3),
        (
            {
                "/proc/self/cgroup": "0::/a/b\n",
                "/sys/fs/cgroup/a/b/cpu.max": "800000 100000\n",
                "/sys/fs/cgroup/a/cpu.max": "200000 100000\n",
            },
            2,
        ),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "1000 100000\n"}, 1),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 64),
        (
            {
                "/proc/self/cgroup": "9:memory:/x\n4:cpu,cpuacct:/docker/x\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "/proc/self/cgroup": "4:cpu:/\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            64,
        ),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "100 0\n"}, 64),
    ],
    ids=[
        "no group",
        "no limit",
        "two and a half",
        "of the group around",
        "a part of one",
        "more than there are",
        "version 1",
        "version 1 without limit",
        "no period",
    ],
)
def test_quotas_of_control_groups_count(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    give(monkeypatch, files)
    assert n_threads(None) == expected


def test_the_cores_of_the_affinity_count(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "900000 100000\n"}
    give(monkeypatch, files, n_cores=5)
    assert default_threads() == 5


@pytest.mark.parametrize(("said", "expected"), [("3", 3), (" 7,2", 7), ("90", 90), ("5000", 1024)])
def test_the_environment_says_how_many(
    monkeypatch: pytest.MonkeyPatch, said: str, expected: int
) -> None:
    give(monkeypatch, {})
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert n_threads(None) == expected
    assert n_threads(2) == 2


@pytest.mark.parametrize("said", ["", "0", "-1", "many", "1.5"])
def test_an_environment_that_says_nothing_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    give(monkeypatch, {}, n_cores=6)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert default_threads() == 6
