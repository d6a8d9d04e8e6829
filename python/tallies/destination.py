"""The output directory: absent or complete, never half.

Everything is written to a hidden directory beside it, which takes its name at the end. What a killed
run leaves is that hidden directory: the next run to the same place resumes or removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from .errors import InputError, StorageError

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


class Destination:
    """Where a result is to appear. Raises InputError if it must not, before anything is written."""

    def __init__(self, out: str | os.PathLike[str], inputs: Iterable[Path], overwrite: bool) -> None:
        given = os.fspath(out)
        self.path = Path(os.path.realpath(given))
        self._partial = self.path.with_name(f".{self.path.name}.tallies-partial")
        self._lock: int | None = None
        for one in inputs:
            self._refuse_overlap(given, one)
        if self.path.name == "":
            raise InputError(f"output {given!r}: expected a directory that can be created")
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise InputError(f"output {given!r}: is a file, expected a directory to create")
        if self.path.is_dir() and any(self.path.iterdir()) and not overwrite:
            raise InputError(f"output {given!r}: is not empty; pass --overwrite to replace it")
        self._make_parent(given)

    def _refuse_overlap(self, given: str, one: Path) -> None:
        place = Path(os.path.realpath(one))
        if self.path == place or self.path in place.parents:
            raise InputError(f"output {given!r}: is or contains the input {one}; choose another")
        if place.is_dir() and place in self.path.parents:
            raise InputError(f"output {given!r}: lies inside the input {one}; choose another")

    def _make_parent(self, given: str) -> None:
        parent = self.path.parent
        existing = next(p for p in (parent, *parent.parents) if p.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise InputError(f"output {given!r}: {existing} is not a directory that can be written")
        self._existing_parent = existing

    def check_space(self, n_bytes: int) -> None:
        """Raise InputError unless the file system has room for ``n_bytes`` more."""
        status = os.statvfs(self._existing_parent)
        free = status.f_bavail * status.f_frsize
        if self._partial.is_dir():
            with contextlib.suppress(OSError):
                free += sum(file.stat().st_blocks * 512 for file in self._partial.iterdir())
        if free < n_bytes:
            raise InputError(
                f"output {self.path}: needs {n_bytes} bytes, but the file system has only {free} "
                "free; make room, or choose another place"
            )

    def open(self, resume: bool) -> Path:
        """The hidden directory to write to, for this process alone; with ``resume`` as it was left."""
        try:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            self._partial.mkdir(exist_ok=True)
            self._lock = os.open(self._partial, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._unlock()
            raise InputError(
                f"output {self.path}: another run is writing it; wait for it, or choose another"
            ) from None
        except OSError as error:
            self._unlock()
            raise StorageError(f"{self._partial}: cannot be created: {error.strerror}") from None
        if not resume:
            _empty(self._partial)
        return self._partial

    def publish(self, sync: bool = False) -> None:
        """Give the finished directory its name, in place of an older one if there is one."""
        try:
            if self.path.is_dir() and any(self.path.iterdir()):
                _exchange(self._partial, self.path)
                shutil.rmtree(self._partial, ignore_errors=True)
            else:
                os.rename(self._partial, self.path)
            if sync:
                parent = os.open(self.path.parent, os.O_RDONLY)
                os.fsync(parent)
                os.close(parent)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be put in place: {error.strerror}") from None
        finally:
            self._unlock()

    def discard(self) -> None:
        """Remove what was written so far."""
        shutil.rmtree(self._partial, ignore_errors=True)
        self._unlock()

    def leave(self) -> None:
        """Keep what was written so far for a run that resumes."""
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _empty(directory: Path) -> None:
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _exchange(new: Path, old: Path) -> None:
    """Swap two directories, at once where the system can; ``new`` then holds the old one."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is not None:
        names = (os.fsencode(new), os.fsencode(old))
        if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code))
    aside = old.with_name(f".{old.name}.tallies-old")
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except OSError:
        os.rename(aside, old)
        raise
    os.rename(aside, new)
