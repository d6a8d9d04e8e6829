"""The least memory that a run takes."""

from __future__ import annotations

from tallies.engine.limits import least_bytes, too_little


def test_less_memory_than_a_run_takes_is_told() -> None:
    assert too_little(least_bytes(2), 2) is None
    told = too_little(1000, 2)
    assert told is not None
    assert "1.00 kB is less than the 1.05 MB of buffers that 2 threads" in told
