"""The output, a directory or one file: absent or complete, never half.

A run writes into a hidden working directory beside the output, which takes the output's name at
the end. A killed run leaves its working directory: the next run to the same place resumes or
removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import InputError, StorageError, TalliesError, note_kept
from .files import refuse_undecodable
from .locks import flush, lock_file, make_directory
from .occupied import objection_to_directory, objection_to_file
from .weight_names import SAFETENSORS

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_FULL = (errno.ENOTEMPTY, errno.EEXIST)
_OTHER_FORMATS = (
    *(".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz", ".onnx", ".pkl"),
)


class Destination:
    """The place where a result will appear; InputError if no result may be written there."""

    def __init__(
        self,
        out: str | os.PathLike[str],
        inputs: Iterable[str | os.PathLike[str]],
        overwrite: bool,
        *,
        of_weights: bool = False,
    ) -> None:
        """Check that a result may be written to a place.

        Args:
            out: The place.
            inputs: Directories and files that the result must not touch.
            overwrite: Allow the result to replace an earlier one.
            of_weights: Take ``NAME.safetensors`` for one file, and refuse other formats' names.
        """
        self._given = os.fspath(out)
        self.path = self._resolve()
        self.is_file = of_weights and self._given.endswith(SAFETENSORS)
        """True if the result is one file, else it is a directory."""
        if of_weights and self._given.endswith(_OTHER_FORMATS):
            raise self._refuse(
                f"results are safetensors: name {self.path.stem}{SAFETENSORS} for one file, or a "
                "directory"
            )
        self.workspace = self.path.with_name(f".{self.path.name}.tallies-partial")
        """The hidden directory of the new content and of files that are no part of that content."""
        self._new = self.workspace / "new"
        self._old = self.workspace / "old"
        self._overwrite = overwrite
        self._lock: int | None = None
        self._new_parents: list[Path] = []
        for one in inputs:
            self._refuse_overlap(one)
        self._refuse_occupied()
        self._existing_parent = self._find_parent()

    def _refuse(self, why: str) -> InputError:
        return InputError(f"output {self._given!r}: {why}")

    def _resolve(self) -> Path:
        try:
            path = Path(os.path.realpath(os.path.expanduser(self._given)))
        except ValueError:
            raise self._refuse("expected a path") from None
        refuse_undecodable(path)
        if not self._given:
            raise self._refuse("expected a directory to create")
        if self._given == "-":
            raise self._refuse("results are files, and no stream; name a place (./- for that name)")
        if os.path.ismount(path):
            raise self._refuse(
                "is the root of a file system, whose place a new directory cannot take; name a "
                "directory inside it"
            )
        with contextlib.suppress(OSError):
            here = Path.cwd()
            if path == here or path in here.parents:
                raise self._refuse("is or contains the current directory; name one inside it")
        return path

    def _refuse_overlap(self, one: str | os.PathLike[str]) -> None:
        place = Path(os.path.realpath(one))
        for mine in (self.path, self.workspace):
            if mine == place or mine in place.parents:
                raise self._refuse(f"is or contains the input {one}; choose another")
            if os.path.isdir(place) and place in mine.parents:
                raise self._refuse(f"lies inside the input {one}; choose another")

    def _refuse_occupied(self) -> None:
        check = objection_to_file if self.is_file else objection_to_directory
        if why := check(self.path, self._overwrite):
            raise self._refuse(why)

    def _find_parent(self) -> Path:
        existing = next(p for p in self.path.parents if os.path.lexists(p))
        # As the user in effect: the real one may be another.
        own = os.access in os.supports_effective_ids
        if not os.path.isdir(existing) or not os.access(
            existing, os.W_OK | os.X_OK, effective_ids=own
        ):
            raise self._refuse(f"{existing} is not a directory that can be written")
        return existing

    def check_space(self, n_bytes: int) -> None:
        """Check that the file system has room for ``n_bytes`` more.

        Raises:
            InputError: The file system has less room.
            StorageError: The file system cannot be asked.
        """
        with self._translating():
            status = os.statvfs(self._existing_parent)
        free = status.f_bavail * status.f_frsize
        for parent, _, files in os.walk(self.workspace):
            with contextlib.suppress(OSError):
                free += sum(os.lstat(os.path.join(parent, f)).st_blocks * 512 for f in files)
        if free < n_bytes:
            raise InputError(
                f"output {self.path}: needs {n_bytes} bytes, but the file system has only {free} "
                "free; make room, or choose another place"
            )

    @contextlib.contextmanager
    def writing(self, resume: bool, sync: bool = False) -> Iterator[Path]:
        """Yield the directory to write to, which becomes the output when the block ends well.

        No other process writes to the directory meanwhile. An output that was there before is
        replaced at once. When the block raises, the directory is removed; with ``resume`` it is
        kept for another run, unless the request or an input is wrong.

        Args:
            resume: Begin with the content that an earlier run left in the directory.
            sync: Flush the directory to disk before it becomes the output.

        Yields:
            The directory, which exists.

        Raises:
            InputError: Another run writes to the same place, or the output is occupied.
            StorageError: The system refused to read or write something, in the block or after it.
        """
        keep = False
        try:
            self._open(resume)
            with self._translating():
                yield self._new
            self._publish(sync)
        except InputError:
            raise
        except BaseException as error:
            keep = resume
            if keep:
                note_kept(error, str(self.workspace))
            raise
        finally:
            self._close(keep)

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        """Raise StorageError in place of an error of the system, with the file that it names."""
        try:
            yield
        except OSError as error:
            if isinstance(error, TalliesError):
                raise
            place = error.filename or self.path
            raise StorageError(f"{place}: {error.strerror or error}") from error

    def _open(self, resume: bool) -> None:
        try:
            self._new_parents = [p for p in self.path.parents if not os.path.lexists(p)]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            if self._old.exists() and not self.path.exists():
                # A run was killed between the two renames of an exchange.
                os.rename(self._old, self.path)
            shutil.rmtree(self._old, ignore_errors=True)
            self._refuse_occupied()
            if not resume:
                self._empty()
            self._new.mkdir(exist_ok=True)
        except BlockingIOError:
            raise self._busy() from None
        except OSError as error:
            raise StorageError(
                f"{self.workspace}: cannot be set up: {error.strerror or error}"
            ) from None

    def refuse_busy(self) -> None:
        """Raise InputError if another run writes to the same place."""
        with contextlib.suppress(FileNotFoundError), open(self.workspace / "lock", "rb") as lock:
            try:
                lock_file(lock.fileno())
            except BlockingIOError:
                raise self._busy() from None

    def _busy(self) -> InputError:
        return InputError(
            f"output {self.path}: another run is writing it; wait for it, or choose another"
        )

    def _take_lock(self) -> None:
        name = self.workspace / "lock"
        while self._lock is None:
            # The last holder may be removing the file and the directory at this very moment.
            make_directory(self.workspace)
            with contextlib.suppress(FileNotFoundError):
                lock = os.open(name, os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    lock_file(lock)
                    if os.path.samestat(os.fstat(lock), os.stat(name)):
                        self._lock = lock
                finally:
                    if self._lock is None:
                        os.close(lock)

    def _publish(self, sync: bool) -> None:
        try:
            if sync:
                for parent, _, files in os.walk(self._new):
                    for path in (*(os.path.join(parent, file) for file in files), parent):
                        flush(path)
            if self.is_file:
                self._refuse_occupied()  # by what appeared meanwhile
                os.replace(self._new / self.path.name, self.path)
            else:
                self._publish_directory()
            if sync:
                flush(self.path.parent)
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be put in place: {error.strerror or error}"
            ) from None

    def _publish_directory(self) -> None:
        try:
            os.rename(self._new, self.path)  # replaces an empty directory, nothing else
        except OSError as error:
            if error.errno not in _FULL or not self._overwrite:
                raise
            self._refuse_occupied()  # by what appeared meanwhile
            self._exchange()

    def _exchange(self) -> None:
        """Swap the new directory and the output, at once where the system can."""
        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if rename is not None:
            names = (os.fsencode(self._new), os.fsencode(self.path))
            if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
                return
            code = ctypes.get_errno()
            if code not in (errno.EINVAL, errno.ENOSYS):
                raise OSError(code, os.strerror(code))
        os.rename(self.path, self._old)
        try:
            os.rename(self._new, self.path)
        except OSError:
            os.rename(self._old, self.path)
            raise

    def _close(self, keep: bool) -> None:
        """Let go of the working directory and, unless it is kept, remove it."""
        if self._lock is not None:
            if not keep:
                # The lock goes last: whoever takes it next finds nothing that is being removed.
                with contextlib.suppress(OSError):
                    self._empty(ignore_errors=True)
                    os.unlink(self.workspace / "lock")
            with contextlib.suppress(OSError):
                os.close(self._lock)
            self._lock = None
        for directory in (self.workspace, *self._new_parents):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def _empty(self, ignore_errors: bool = False) -> None:
        for entry in list(os.scandir(self.workspace)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors)
            elif entry.name != "lock":
                os.unlink(entry.path)
