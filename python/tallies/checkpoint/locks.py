"""Locks against other processes, and flushes against power failures."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

# Some network file systems have no locks. A run is not refused for that.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)

_ATTEMPTS = 100


@contextlib.contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Hold a lock file; BlockingIOError if another process does."""
    file = _locked(lock)
    try:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                lock.unlink()
    finally:
        # Nothing was written that a failure to close could lose.
        with contextlib.suppress(OSError):
            os.close(file)


def _locked(lock: Path) -> int:
    """Open and lock a file that the last holder may be removing at this very moment."""
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock_file(file)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(lock)):
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def make_directory(path: Path) -> None:
    """Make a directory, with parents that others may be removing at this very moment.

    Raises:
        FileNotFoundError: Nothing can be made there, as in /proc.
    """
    for more in reversed(range(_ATTEMPTS)):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:
            if not more:
                raise
        else:
            return


def lock_file(file: int) -> None:
    """Lock an open file; BlockingIOError if another process has locked it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def flush(path: str | os.PathLike[str]) -> None:
    """Flush a file or a directory to disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
