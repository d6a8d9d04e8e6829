"""The yardstick of merges: how fast this machine reads the inputs and writes an output."""

from __future__ import annotations

import itertools
import mmap
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

_BUFFER_BYTES = 8 << 20


def copy(
    inputs: Sequence[Path], out: Path, n_out_bytes: int, n_threads: int, reserve: bool
) -> float:
    """Seconds to read files once and write ``n_out_bytes`` of what was read to a new file.

    Plain positioned reads and writes of 8 MiB by ``n_threads`` threads, reads and writes mixed in
    proportion as a merge mixes them. With ``reserve`` the file is allocated first. The buffers are
    in memory before the clock starts. RuntimeError unless every byte was moved: everything else is
    measured by this.
    """
    out.unlink(missing_ok=True)
    buffers = [mmap.mmap(-1, _BUFFER_BYTES) for _ in range(n_threads)]
    for buffer in buffers:
        buffer.write(bytes(_BUFFER_BYTES))
    failures: list[BaseException] = []
    moved_bytes: list[int] = []
    n_in_bytes = sum(path.stat().st_size for path in inputs)
    start = time.perf_counter()
    with ExitStack() as files:
        reads = []
        for path in inputs:
            file = files.enter_context(open(path, "rb", buffering=0))
            size = os.fstat(file.fileno()).st_size
            reads += [(file.fileno(), at, n) for at, n in _chunks(size)]
        target = files.enter_context(open(out, "wb", buffering=0)).fileno()
        if reserve and n_out_bytes:
            os.posix_fallocate(target, 0, n_out_bytes)
        writes = [(-1, at, n) for at, n in _chunks(n_out_bytes)]
        # A list's iterator hands each step to one thread.
        steps = iter(_mixed(reads, writes))

        def work(buffer: mmap.mmap) -> None:
            with memoryview(buffer) as view:
                try:
                    for file, at, n in steps:
                        moved = (
                            os.pwrite(target, view[:n], at)
                            if file < 0
                            else os.preadv(file, [view[:n]], at)
                        )
                        if moved != n:
                            raise OSError(f"moved {moved} of {n} bytes")
                        moved_bytes.append(moved)
                except BaseException as error:
                    failures.append(error)

        threads = [threading.Thread(target=work, args=(buffer,)) for buffer in buffers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seconds = time.perf_counter() - start
    written = out.stat()
    out.unlink()
    if failures:
        raise failures[0]
    found = (sum(moved_bytes), written.st_size)
    # Blocks, because a file that was only made long enough has the size but not the content.
    if found != (n_in_bytes + n_out_bytes, n_out_bytes) or written.st_blocks * 512 < n_out_bytes:
        raise RuntimeError(
            f"copy: moved {found[0]} bytes and wrote a file of {found[1]}, expected "
            f"{n_in_bytes + n_out_bytes} and {n_out_bytes}"
        )
    return seconds


def write_files(folder: Path, n_files: int, n_bytes: int, n_threads: int) -> None:
    """Write new files of ``n_bytes`` each, allocated first, in pieces of 8 MiB from memory."""
    folder.mkdir(parents=True)
    piece = memoryview(bytearray(_BUFFER_BYTES))

    def write(number: int) -> None:
        with open(folder / f"{number}.bin", "wb", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, n_bytes)
            for at, n in _chunks(n_bytes):
                if os.pwrite(file.fileno(), piece[:n], at) != n:
                    raise OSError(f"{file.name}: a piece was not written")

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(write, range(n_files)))


def _chunks(n_bytes: int) -> Iterable[tuple[int, int]]:
    for at in range(0, n_bytes, _BUFFER_BYTES):
        yield at, min(_BUFFER_BYTES, n_bytes - at)


def _mixed(
    reads: list[tuple[int, int, int]], writes: list[tuple[int, int, int]]
) -> list[tuple[int, int, int]]:
    group = -(-len(reads) // max(len(writes), 1))
    groups = [reads[i : i + group] for i in range(0, len(reads), max(group, 1))]
    pairs = itertools.zip_longest(groups, writes)
    return [step for some, write in pairs for step in (*(some or ()), *([write] if write else ()))]


def read_all(paths: Iterable[Path]) -> None:
    """Bring files into the page cache."""
    buffer = bytearray(_BUFFER_BYTES)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def use_memory(out: Path, n_bytes: int) -> None:
    """Write a throw-away file of ``n_bytes``, so that the next file takes memory just used.

    A virtual machine gives free memory back to its host, and the next file to use it waits for it:
    2.5 GB took 0.25 s to write or 1.3 to 4 s, in turns. Repeated until a write takes no longer than
    half as much again as the fastest of the run, eight times at most.
    """
    for _ in range(8):
        seconds = copy([], out, n_bytes, 1, reserve=True)
        _fastest[n_bytes] = min(seconds, _fastest.get(n_bytes, seconds))
        if seconds <= 1.5 * _fastest[n_bytes]:
            return


_fastest: dict[int, float] = {}


def forget_all(paths: Iterable[Path]) -> None:
    """Drop files from the page cache, and with enough rights everything else."""
    os.sync()
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")
