"""Changes a model in place: completely or not at all, whatever ends the run."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from .._core import Limits, Plan
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.folders import declared_folders
from ..checkpoint.interrupted import JOURNAL, homes_of
from ..checkpoint.locks import only_one
from ..checkpoint.tensors import TensorInfo
from ..checkpoint.weight_names import SAFETENSORS
from ..engine.files import PlanFiles
from ..engine.limits import allow_open_files, tile_limits
from ..engine.usage import Advance, measure
from ..errors import InputError, StorageError, TalliesError
from ..recipe.places import Places
from .chains import Link, OnePatch, links_of
from .covered import anew, check_small, covered, flush_all, refuse_linked, refuse_structure
from .journal import Journal
from .left import refuse_others
from .occupants import occupants
from .report import PatchReport
from .small import SmallOut
from .works import Work, apply_works

_NOT_OURS: Final = (errno.EROFS, errno.EACCES, errno.EPERM)


class InPlace:
    """A model that is changed where it is.

    Args:
        to: The path of the model, a directory or a file.
        variant: The variant of its weights.

    Raises:
        InputError: There is no such model of one's own, but one of a hub or a file of another.
    """

    def __init__(self, to: str | os.PathLike[str], variant: str | None) -> None:
        text = os.fspath(to)
        places = Places.of()
        if places.hub_model(text) is not None or len(places.pieces(text)) > 1:
            raise InputError(
                f"{text}: is no local path, and only such a model is changed in place; name an "
                "output (--out)"
            )
        self.path = Path(places.path(text))
        self._variant = variant or ""
        if not os.path.exists(self.path):
            raise InputError(f"{self.path}: no such file or directory; expected a model")
        real = Path(os.path.realpath(self.path))
        self._home = real if real.is_dir() else real.parent
        self._journal = Journal(self._home)
        self._folders: list[Path] = []
        self._restored: str | None = None
        self.warnings: list[str] = []
        self.small_done: dict[str, str] = {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let one run at a time change the model.

        Raises:
            InputError: Another run changes it.
            StorageError: The directory cannot be written.
        """
        try:
            with contextlib.ExitStack() as locks:
                while self._folders != (found := self._find_folders()):
                    locks.close()
                    self._folders = found
                    for folder in found:
                        locks.enter_context(only_one(folder / f"{JOURNAL}.lock"))
                yield
        except BlockingIOError:
            raise InputError(
                f"{self.path}: another run is changing it; wait for it, or name an output (--out)"
            ) from None
        except OSError as error:
            if isinstance(error, TalliesError):
                raise
            place = error.filename or self.path
            way_out = "; name an output (--out)" if error.errno in _NOT_OURS else ""
            raise StorageError(f"{place}: {error.strerror or error}{way_out}") from None

    def _find_folders(self) -> list[Path]:
        """Return the directories of the model, and of others that share a journal with it."""
        left = [self._home]
        if os.path.isdir(self.path):
            left += [self._home / name for name in declared_folders(self._home)]
        found: set[Path] = set()
        while left:
            folder = Path(os.path.realpath(left.pop()))
            if folder not in found and folder.is_dir():
                found.add(folder)
                left += homes_of(folder)
                journal = Journal(folder)
                if journal.is_complete:
                    with contextlib.suppress(TalliesError):
                        left += [folder / name for name in journal.read().folders]
        return sorted(found)

    def open(self) -> Checkpoint:
        """Open the model; InputError if it has files that cannot be changed where they are."""
        found = Checkpoint.open(self.path, variant=self._variant)
        way_out = "name an output (--out)"
        for file in found.files:
            if file.suffix != SAFETENSORS:
                raise InputError(
                    f"{file}: is no safetensors file, and only those are changed in place; "
                    f"{way_out}"
                )
            status = os.lstat(file)
            if file.is_symlink() or status.st_nlink > 1:
                what = "a link" if file.is_symlink() else "a file with several names"
                raise InputError(
                    f"{file}: is {what}, and others would change with it; {way_out}, or copy it"
                )
            if not os.access(file, os.W_OK):
                raise InputError(f"{file}: cannot be written; {way_out}")
            refuse_linked(self.path, self._home, file)
        return found

    def restore(self, max_bytes: int, threads: int) -> None:
        """Restore the old models if earlier runs were interrupted.

        Raises:
            InputError: A journal is damaged, or is that of other files.
            StorageError: Reading or writing fails.
        """
        for folder in self._folders:
            journal = Journal(folder)
            journal.sweep()
            if journal.is_complete:
                self._restore(journal, tile_limits(max_bytes, threads), max_bytes)
                self.warnings.append(
                    "an earlier run was interrupted: the model before it was restored"
                )

    def _restore(self, journal: Journal, limits: Limits, max_bytes: int) -> None:
        """Restore the files of a journal, if they would be the old model then."""
        links = journal.links()
        found = covered(journal)
        works = refuse_others(journal, links, found, limits, max_bytes)
        quiet = Advance(None, 0)
        changed = [anew(one) for one in works if one.links]
        self._write(changed, limits, max_bytes, quiet, check=Work.check_new)
        journal.restore_small()
        flush_all(found.files, journal)
        journal.drop()
        self._restored = links[0].new

    def is_undone(self, patches: Sequence[OnePatch]) -> bool:
        """Return True if restoring is all that taking these patches back asks for."""
        if self._restored is None:
            return not patches
        return not patches or links_of(patches)[0].old == self._restored

    def report(self, start: float, threads: int) -> PatchReport:
        """Return the report on a run that restored the old model, if need be, and no more."""
        n_bytes = self.open().n_bytes
        moved = n_bytes if self._restored else 0
        fingerprint = self._restored or ""
        return PatchReport(
            kind="restored" if self._restored else "nothing",
            path=str(self.path),
            old=str(self.path),
            new=None,
            patches=[],
            old_fingerprint=fingerprint,
            new_fingerprint=fingerprint,
            tensors={},
            layouts={},
            n_elements=0,
            n_changed=0,
            n_bytes=0,
            model_bytes=n_bytes,
            files={},
            small_files={},
            warnings=self.warnings,
            **measure(start, moved, moved, threads),
        )

    def change(
        self,
        target: Checkpoint,
        works: Sequence[Work],
        links: Sequence[Link],
        limits: Limits,
        max_bytes: int,
        advance: Advance,
        *,
        sync: bool,
    ) -> None:
        """Apply a chain; what fails in the middle is taken back.

        Args:
            target: The model.
            works: Its tensors.
            links: The chain.
            limits: Threads and buffers.
            max_bytes: Upper bound for memory.
            advance: Is told of the bytes moved.
            sync: Flush the files before the journal goes.

        Raises:
            InputError: The model is another one, a patch is damaged, or adds or removes tensors.
            StorageError: Reading or writing fails.
        """
        refuse_structure(links)
        self._warn_of_others(target)
        small = SmallOut.of(links, target, alone=False)
        self.warnings += small.warnings
        self.small_done = small.done
        check_small(self.path, self._home, small)
        allow_open_files(2 * len(target.files) + len(links))
        changed = [work for work in works if work.links]
        try:
            files = PlanFiles(Plan(True))
            self._journal.write(
                works, links, small, target.parts, files, limits, max_bytes, advance
            )
        except BaseException:
            self._journal.discard()
            raise
        try:
            self._write([anew(one) for one in changed], limits, max_bytes, advance, Work.check_new)
            self._journal.put_small()
            if sync:
                flush_all(target.files, self._journal)
            self._journal.drop()
        except BaseException as error:
            if self._journal.is_complete:
                self._take_back(error, limits, max_bytes)
            raise

    def _take_back(self, error: BaseException, limits: Limits, max_bytes: int) -> None:
        """Restore the old model after a failure, or say how to."""
        try:
            self._restore(self._journal, limits, max_bytes)
        except (TalliesError, OSError) as second:
            raise StorageError(
                f"{self.path}: {error}; and the old model could not be restored ({second}): run "
                f"'tallies apply --to {self.path} --in-place --undo' once there is room"
            ) from error

    def _write(
        self,
        works: Sequence[Work],
        limits: Limits,
        max_bytes: int,
        advance: Advance,
        check: Any,
    ) -> None:
        files = PlanFiles(Plan(True))
        places: dict[str, TensorInfo] = {}
        for work in works:
            places[work.name] = work.source
        for path in sorted({one.path for one in places.values()}):
            files.create(path, os.path.getsize(path))
        apply_works(works, files, places, limits, max_bytes, advance, check, with_old=False)
        files.close_written()

    def _warn_of_others(self, target: Checkpoint) -> None:
        for file, who in occupants(target.files).items():
            self.warnings.append(
                f"{file.name} is open in {', '.join(who)}, which may see old and new values"
            )
