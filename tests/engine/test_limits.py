"""The least memory that a run takes."""

from __future__ import annotations

import pytest

from tallies import InputError
from tallies.engine.limits import check_rows, least_bytes, too_little


def test_less_memory_than_a_run_takes_is_told() -> None:
    assert too_little(least_bytes(2), 2) is None
    told = too_little(1000, 2)
    assert told is not None
    assert "1.00 kB is less than the 1.05 MB of buffers that 2 threads" in told


def test_factors_that_a_thread_has_no_room_for_are_refused() -> None:
    words = "factors of adapters take"
    check_rows(200 << 20, "w", 400 << 20, 2, words)
    check_rows(16 << 20, "w", 1 << 20, 2, words)
    with pytest.raises(
        InputError,
        match="tensor 'w': factors of adapters take 201MiB in each of 2 threads, expected at "
        "most their share of --max-memory 400MiB; raise it to 402MiB, or take fewer --threads",
    ):
        check_rows(201 << 20, "w", 400 << 20, 2, words)
    with pytest.raises(
        InputError, match=r"take 201MiB, expected at most --max-memory 200MiB; raise it to 201MiB$"
    ):
        check_rows(201 << 20, "w", 200 << 20, 1, words)
    check_rows(201 << 20, "w", 402 << 20, 2, words)
    with pytest.raises(InputError, match=r"take 16\.01MiB.* 200KiB; raise it to 16\.01MiB"):
        check_rows((16 << 20) + 1, "w", 200 << 10, 1, words)
