"""The choice between reads through the page cache and past it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallies import InputError
from tallies.engine import control_groups, page_cache
from tallies.engine.page_cache import available_bytes, io_code

BUFFERED, DIRECT, UNLESS_CACHED = range(3)


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    """Two files of 3000 bytes in all, and one that is not there."""
    found = [tmp_path / "one", tmp_path / "two", tmp_path / "none"]
    for path, size in zip(found, (1000, 2000), strict=False):
        path.write_bytes(bytes(size))
    return found


@pytest.mark.parametrize(
    ("room", "code"), [(6000, BUFFERED), (5999, UNLESS_CACHED), (None, BUFFERED)]
)
def test_auto_reads_past_the_page_cache_what_it_has_no_room_for(
    inputs: list[Path], monkeypatch: pytest.MonkeyPatch, room: int | None, code: int
) -> None:
    monkeypatch.setattr(page_cache, "available_bytes", lambda: room)
    assert io_code("auto", inputs) == code
    assert io_code("buffered", inputs) == BUFFERED
    assert io_code("direct", inputs) == DIRECT


def test_other_words_are_refused() -> None:
    with pytest.raises(InputError, match="io: found 'mmap', expected auto, buffered or direct"):
        io_code("mmap", [])


def test_the_system_says_how_much_memory_is_free() -> None:
    found = available_bytes()
    assert found is not None
    assert 1 << 20 < found < 1 << 50


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   5 kB\n"}, 5 << 10),
        (
            {
                "/proc/meminfo": "MemAvailable: 5 kB\n",
                "/proc/self/cgroup": "2:cpu:/a\n4:memory:/a/b\n",
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes": "4096\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            4096,
        ),
        (
            {
                "/proc/meminfo": "MemAvailable: 5 kB\n",
                "/proc/self/cgroup": "0::/a/b\n",
                "/sys/fs/cgroup/a/b/memory.max": "max\n",
                "/sys/fs/cgroup/memory.max": "3000\n",
            },
            3000,
        ),
        ({}, None),
    ],
    ids=["no group", "version 1", "version 2", "another system"],
)
def test_limits_of_control_groups_count(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int | None
) -> None:
    monkeypatch.setattr(
        control_groups, "lines", lambda path: files.get(str(path), "").splitlines(keepends=True)
    )
    assert available_bytes() == expected
