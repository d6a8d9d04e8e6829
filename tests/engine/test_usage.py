"""Time, bytes and memory of a run."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tallies.engine.usage import Advance, Usage, done_line, measure, peak_memory_bytes


@dataclass(frozen=True)
class Report(Usage):
    path: str
    notes: str = ""


def test_a_report_has_its_usage_behind_its_own_fields() -> None:
    report = Report("out", bytes_read=3, threads=2)
    assert list(report.to_json_dict()) == [
        *("path", "notes", "bytes_read", "bytes_written", "bytes_direct", "seconds"),
        *("gb_per_second", "peak_memory_bytes", "threads"),
    ]
    assert report.to_json_dict()["bytes_read"] == 3


def test_measure() -> None:
    start = time.perf_counter() - 2
    report = Report("out", **measure(start, 3 * 10**9, 10**9, 4))
    assert 2 <= report.seconds < 60
    assert report.gb_per_second == 4 / report.seconds
    assert (report.bytes_read, report.bytes_written, report.threads) == (3 * 10**9, 10**9, 4)
    assert 1 << 20 < report.peak_memory_bytes <= peak_memory_bytes()


def test_the_last_line_of_a_report() -> None:
    report = Report(
        *("out",),
        **{"bytes_read": 3 * 10**9, "bytes_written": 10**9, "seconds": 2.0},
        **{"gb_per_second": 2.0, "peak_memory_bytes": 3 << 20},
    )
    assert done_line(report) == "done       4.00 GB in 2.00 s (2.00 GB/s), peak memory 3.15 MB"


def test_progress_never_passes_the_whole_and_ends_there() -> None:
    calls: list[tuple[int, int]] = []
    advance = Advance(lambda moved, whole: calls.append((moved, whole)), 10)
    assert advance
    advance(4)
    advance(9)
    advance.finish()
    assert calls == [(4, 10), (10, 10), (10, 10)]


def test_a_run_that_moved_too_little_ends_at_the_whole() -> None:
    calls: list[tuple[int, int]] = []
    advance = Advance(lambda moved, whole: calls.append((moved, whole)), 10)
    advance(4)
    advance.finish()
    assert calls == [(4, 10), (10, 10)]


def test_nobody_asks_for_progress() -> None:
    advance = Advance(None, 10)
    assert not advance
    advance(4)
    advance.finish()
