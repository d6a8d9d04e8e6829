"""The processors that this process may use: the threads of a run where nobody says how many."""

from __future__ import annotations

import os
from functools import cache

from .control_groups import group_values

_MOST_THREADS = 1024


def default_threads() -> int:
    """Return the number of OMP_NUM_THREADS, or else of the processors that this process may use."""
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if said.isdecimal() and int(said) > 0:
        return min(int(said), _MOST_THREADS)
    affinity = getattr(os, "sched_getaffinity", None)
    n_cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = processor_quota()
    return n_cores if quota is None else min(n_cores, quota)


@cache
def processor_quota() -> int | None:
    """Return the processors whose time the control groups allow, rounded up; None for all."""
    shares = []
    for words in group_values("cpu", ["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        quota, period = words if len(words) == 2 else ("max", "")
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            shares.append(max(-(-int(quota) // int(period)), 1))
    return min(shares, default=None)
