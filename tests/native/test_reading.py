"""Every way of reading gives the same bytes, whatever the system does to a read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tallies import StorageError
from tallies._core import Limits, Plan
from tallies.spec.dtypes import CODES_BY_SIZE
from tests.support.compiled import compiled, preloaded

BUFFERED, DIRECT, UNLESS_CACHED = WAYS = range(3)
MODES = pytest.mark.parametrize("io", WAYS, ids=["buffered", "direct", "unless cached"])
BYTE = CODES_BY_SIZE[1]  # fingerprints are of bytes

# Sizes of tensors that lie one behind the other: tiny ones, and some larger than a block.
SIZES = (1, 7, 5_000_003, 0, 64, 4096, 100_001, 3_000_000, 2)


@pytest.fixture(scope="module", params=[0, 8, 4095], ids=lambda first: f"from {first}")
def file(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A file whose tensors begin at an offset that is mostly odd."""
    path = tmp_path_factory.mktemp("read") / f"{request.param}"
    n = request.param + sum(SIZES)
    path.write_bytes(np.random.default_rng(n).integers(0, 256, n, np.uint8).tobytes())
    with open(path, "rb") as opened:
        os.fsync(opened.fileno())
    yield path
    path.unlink()


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with open(path, "rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def places(path: Path) -> list[tuple[int, int]]:
    """Return the offsets and sizes of the tensors of the file."""
    at, found = int(path.name), []
    for size in SIZES:
        found.append((at, size))
        at += size
    return found


def read(path: Path, io: int, threads: int = 2, buffer: int = 1 << 20) -> tuple[object, int]:
    """Return the fingerprints of all tensors, and the bytes that went past the page cache."""
    plan = Plan(False)
    number = plan.open_to_read(str(path))
    for offset, size in places(path):
        plan.add_job(size, [(number, offset, BYTE), (number, offset, BYTE)], [])
    limits = Limits(threads, buffer, io=io)
    return plan.fingerprints(limits=limits), limits.bytes_direct


def in_memory(path: Path) -> object:
    """Return the fingerprints of the same bytes in memory."""
    data = np.fromfile(path, np.uint8)
    plan = Plan(False)
    for offset, size in places(path):
        place = (-1, data.ctypes.data + offset, BYTE)
        plan.add_job(size, [place, place], [])
    return plan.fingerprints(limits=Limits(1, 1 << 20))


@MODES
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("buffer", [1 << 12, 1 << 20, 1 << 24])
def test_all_ways_read_the_same_bytes(file: Path, io: int, threads: int, buffer: int) -> None:
    expected = in_memory(file)
    forget(file)
    found, n_direct = read(file, io, threads, buffer)
    assert found == expected
    assert (n_direct > 0) == (io != BUFFERED)


def test_what_is_cached_is_not_read_directly_unless_asked(file: Path) -> None:
    expected = in_memory(file)
    assert read(file, UNLESS_CACHED) == (expected, 0)
    assert read(file, DIRECT)[1] > 2 * 8_000_000


@MODES
def test_truncated_files_are_errors_that_name_the_byte(tmp_path: Path, io: int) -> None:
    path = tmp_path / "0"
    path.write_bytes(bytes(sum(SIZES)))
    plan = Plan(False)
    number = plan.open_to_read(str(path))
    for offset, size in places(path):
        plan.add_job(size, [(number, offset, BYTE)], [])
    os.truncate(path, 4_000_001)
    forget(path)
    with pytest.raises(
        StorageError, match=r"/0: ends at byte 4000001, .* truncated while being read"
    ):
        plan.fingerprints(limits=Limits(1, 1 << 20, io=io))


@MODES
def test_a_file_that_was_replaced_is_read_as_it_was(tmp_path: Path, io: int) -> None:
    """The second descriptor of direct reads opens the path, which names another file by now."""
    path = tmp_path / "0"
    path.write_bytes(np.random.default_rng(1).bytes(sum(SIZES)))
    expected = in_memory(path)
    plan = Plan(False)
    number = plan.open_to_read(str(path))
    for offset, size in places(path):
        plan.add_job(size, [(number, offset, BYTE), (number, offset, BYTE)], [])
    path.rename(tmp_path / "old")
    path.write_bytes(bytes(sum(SIZES)))
    limits = Limits(2, 1 << 20, io=io)
    assert plan.fingerprints(limits=limits) == expected
    assert limits.bytes_direct == 0


def test_scattered_runs_are_the_same(file: Path) -> None:
    """Short jobs far apart are asked for all at once, and read through the page cache."""
    runs = [(at, 1024) for at in range(int(file.name), 5_000_000, 40_000)]

    def fingerprints(io: int) -> tuple[object, int]:
        plan = Plan(False)
        number = plan.open_to_read(str(file))
        for offset, size in runs:
            plan.add_job(size, [(number, offset, BYTE)], [])
        limits = Limits(2, 1 << 20, io=io)
        return plan.fingerprints(limits=limits), limits.bytes_direct

    expected = fingerprints(BUFFERED)
    for io in (DIRECT, UNLESS_CACHED):
        forget(file)
        assert fingerprints(io) == expected


# Each makes the system do what it may do, and what a test cannot make a disk do.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>
static int is(const char* name) {
  const char* way = getenv("SHIM");
  return way && strcmp(way, name) == 0;
}
static int is_direct(int fd) { return fcntl(fd, F_GETFL) & O_DIRECT; }
ssize_t pread64(int fd, void* to, size_t n, off_t at) {
  static ssize_t (*real)(int, void*, size_t, off_t);
  static int calls;
  if (!real) *(void**)&real = dlsym(RTLD_NEXT, "pread64");
  const int call = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
  if (is("interrupted") && call % 2) { errno = EINTR; return -1; }
  if (is("refused") && is_direct(fd)) { errno = EINVAL; return -1; }
  if (is("short") && n > 4096) n = is_direct(fd) ? n / 8192 * 4096 : n / 2 + 1;
  if (is("odd") && is_direct(fd) && n > 4096) return real(fd, to, n, at) - 1;
  return real(fd, to, n, at);
}
ssize_t pread(int fd, void* to, size_t n, off_t at) { return pread64(fd, to, n, at); }
ssize_t preadv64v2(int fd, const struct iovec* to, int n, off_t at, int flags) {
  static ssize_t (*real)(int, const struct iovec*, int, off_t, int);
  if (!real) *(void**)&real = dlsym(RTLD_NEXT, "preadv64v2");
  if (is("waiting")) { errno = EOPNOTSUPP; return -1; }
  struct iovec part = *to;
  if (is("short") && part.iov_len > 1) part.iov_len /= 2;
  return real(fd, &part, n, at, flags);
}
ssize_t preadv2(int fd, const struct iovec* to, int n, off_t at, int flags) {
  return preadv64v2(fd, to, n, at, flags);
}
int open64(const char* path, int flags, ...) {
  static int (*real)(const char*, int, ...);
  if (!real) *(void**)&real = dlsym(RTLD_NEXT, "open64");
  va_list rest;
  va_start(rest, flags);
  const int mode = flags & O_CREAT ? va_arg(rest, int) : 0;
  va_end(rest);
  if (is("unopened") && flags & O_DIRECT) { errno = EINVAL; return -1; }
  return real(path, flags, mode);
}
int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const int mode = flags & O_CREAT ? va_arg(rest, int) : 0;
  va_end(rest);
  return open64(path, flags, mode);
}
"""

PROGRAM = """
import sys
from pathlib import Path
from tests.native import test_reading as reading
path = Path(sys.argv[1])
for io in reading.WAYS:
    reading.forget(path)
    found, n_direct = reading.read(path, io)
    print(hash(str(found)), n_direct > 0)
"""


def read_with(shim: Path | None, way: str, path: Path, *limits: str) -> Sequence[str]:
    """Return what a process finds in each mode in which the system behaves in this way."""
    settings = {**os.environ, "SHIM": way, "PYTHONHASHSEED": "0"}
    if shim is not None:
        settings["LD_PRELOAD"] = preloaded(shim)
    command = [*limits, sys.executable, "-c", PROGRAM, str(path)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("shim"), SHIM)


@pytest.mark.parametrize("way", ["interrupted", "short", "waiting"])
def test_reads_that_are_interrupted_or_short_go_on(file: Path, shim: Path, way: str) -> None:
    undisturbed = [line.split()[0] for line in read_with(None, "", file)]
    assert [line.split()[0] for line in read_with(shim, way, file)] == undisturbed


@pytest.mark.parametrize("way", ["unopened", "refused", "odd"])
def test_files_that_cannot_be_read_directly_are_read_through_the_page_cache(
    file: Path, shim: Path, way: str
) -> None:
    direct = [line.split() for line in read_with(None, "", file)]
    found = [line.split() for line in read_with(shim, way, file)]
    assert [one[0] for one in found] == [one[0] for one in direct]
    assert [one[1] for one in direct] == ["False", "True", "True"]
    assert [one[1] for one in found] == ["False"] * 3


def test_the_last_descriptors_are_left_to_others(file: Path) -> None:
    found = read_with(None, "", file, "prlimit", "--nofile=34:34")
    assert [line.split()[1] for line in found] == ["False"] * 3
