"""Bounds what a run takes of the machine: threads, memory for tiles, open files."""

from __future__ import annotations

import resource

from .._core import Limits
from ..errors import InputError
from ..messages import counted, show
from ..sizes import budget, format_size
from .processors import default_threads

# A tile and its scratch take about four times the buffer; the rest of the budget is what the
# lists of a selection, the plan and the interpreter take.
_BUFFER_SHARE = 8
_LEAST_BUFFER_BYTES = 1 << 16
_MOST_BUFFER_BYTES = 1 << 24
_IN_MEMORY_BUFFER_BYTES = 1 << 20
# Lists of elements that guessed thresholds and cancelled votes leave open take half of what tiles
# and counts, with five times the buffers, leave of the budget: 20 million elements of a base and
# three experts, or 100 million cancelled votes.
_BUFFERS_BESIDE_LISTS = 5
_MOST_LIST_BYTES = 1 << 28
# Work in memory that takes longer than to start and end a thread.
_WORTH_BYTES = 1 << 22
# Open files that are no input or output.
_OTHER_FILES = 32


def tile_limits(max_bytes: int, threads: int, io: int = 0) -> Limits:
    """Return the limits of a run that is to stay within ``max_bytes`` of memory.

    Args:
        max_bytes: Upper bound for memory.
        threads: The threads of the run.
        io: The code of how it reads its inputs, of ``engine.page_cache.io_code``.
    """
    share = max_bytes // (_BUFFER_SHARE * threads)
    buffer = min(max(share, _LEAST_BUFFER_BYTES), _MOST_BUFFER_BYTES)
    rest = max(max_bytes - _BUFFERS_BESIDE_LISTS * buffer * threads, 0) // 2
    return Limits(threads, buffer, io=io, list_bytes=min(rest, _MOST_LIST_BYTES))


def least_bytes(threads: int) -> int:
    """Return the memory that a run takes however little it is given."""
    return _LEAST_BUFFER_BYTES * _BUFFER_SHARE * threads


def too_little(max_bytes: int, threads: int) -> str | None:
    """Return the warning that ``max_bytes`` is less than a run takes, or None."""
    if max_bytes >= (least := least_bytes(threads)):
        return None
    return (
        f"max_memory: {format_size(max_bytes)} is less than the {format_size(least)} of buffers "
        f"that {counted(threads, 'thread')} may take at least"
    )


def check_rows(
    n_bytes: int, name: str, max_bytes: int, threads: int, content: str = "whole rows take"
) -> None:
    """Raise InputError if a thread's share of ``max_bytes`` has no room for rows, or factors.

    Args:
        n_bytes: The bytes that the content takes in one thread.
        name: The name of the tensor.
        max_bytes: The upper bound for buffers.
        threads: The threads that share it.
        content: Subject and verb of the message.
    """
    if n_bytes > max(max_bytes // threads, _MOST_BUFFER_BYTES):
        each, share = f" in each of {threads} threads", "their share of "
        fewer = ", or take fewer --threads"
        if threads == 1:
            each = share = fewer = ""
        raise InputError(
            f"tensor {name!r}: {content} {budget(n_bytes, at_least=True)}{each}, expected at most "
            f"{share}--max-memory {budget(max_bytes)}; raise it to "
            f"{budget(n_bytes * threads, at_least=True)}{fewer}"
        )


def allow_open_files(n_files: int) -> None:
    """Raise the soft limit of open files to ``n_files`` and some more, if it is lower.

    All files of a merge stay open: 64 experts of 30 files exceed the usual limit of 1024. Files
    that are read past the page cache are open twice, as far as the hard limit allows that.

    Raises:
        InputError: The hard limit is lower.
    """
    twice = 2 * n_files + _OTHER_FILES
    n_files += _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= twice:
        return
    wanted = twice if hard == resource.RLIM_INFINITY else max(min(twice, hard), n_files)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, soft), hard))
    except (ValueError, OSError):
        raise InputError(
            f"needs {n_files} open files, but the limit is {hard} (ulimit -Hn); raise it, or use "
            "larger files: models in fewer shards, a larger --max-shard-size"
        ) from None


def n_threads(threads: int | None) -> int:
    """Return the number of threads asked for; for None, that of OMP_NUM_THREADS or the cores."""
    if threads is None:
        return default_threads()
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise InputError(f"threads: found {show(threads)}, expected a number from 1 to 1024")
    return threads


def limits_in_memory(threads: int | None) -> Limits:
    """Return the limits of a pass over arrays in memory, which take no buffers of their own."""
    return Limits(n_threads(threads), _IN_MEMORY_BUFFER_BYTES, worth_bytes=_WORTH_BYTES)
