"""The journal of a change in place: the old values, beside the files, until all is written.

A journal is a patch for each link of the chain, with the link's positions and the old values. As
these are values and no differences, they restore the old model whatever was written of the new one.
The new values are there as well, for comparison: what lies in the place of either is of this model.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from .._core import Limits, apply_changes
from ..checkpoint.interrupted import DONE, JOURNAL, NEW, NOTE, RECORD
from ..checkpoint.locks import flush
from ..checkpoint.parts import Part as ModelPart
from ..engine.files import PlanFiles
from ..engine.usage import Advance
from ..errors import InputError, StorageError, TalliesError
from .chains import Link
from .kept import checksum
from .old_values import NEW_SUFFIX, Keeper
from .opened import Patch
from .part_change import PartChange
from .record import Record
from .small import SmallOut, write_file
from .works import Jobs, Work, load

_OLD: Final = "old"
_COMING: Final = "new"


@dataclass(frozen=True)
class KeptLink(Link):
    """The old values of a link of the chain, in a journal."""

    journal: Journal = field(kw_only=True)

    def part(self, name: str, number: int, threads: int = 1) -> PartChange | None:
        """Read the old values of a part of a tensor, as ``Link.part`` the changes."""
        with self.journal.telling_of_damage():
            return super().part(name, number, threads)

    def damaged(self, name: str, number: int, error: InputError) -> InputError:
        """Return the error of a part whose entries contradict each other."""
        try:
            with self.journal.telling_of_damage():
                raise super().damaged(name, number, error)
        except InputError as told:
            return told

    @property
    def new_values(self) -> Path:
        """The file of the new values in the place of the old ones."""
        return self.patch.path.with_suffix(NEW_SUFFIX)


class Journal:
    """The journal in the directory of a model.

    Args:
        home: The directory, without links on the way to it.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / JOURNAL
        """The directory of the journal, which is there while it is complete."""
        self._new = home / NEW
        self._done = home / DONE

    @property
    def is_complete(self) -> bool:
        """True if a run wrote a journal and did not come to its end."""
        return self.path.is_dir()

    def write(
        self,
        works: Sequence[Work],
        links: Sequence[Link],
        small: SmallOut,
        parts: Iterable[ModelPart],
        files: PlanFiles,
        limits: Limits,
        max_bytes: int,
        advance: Advance,
    ) -> None:
        """Read what changes, check that it is what the chain starts from, and keep it.

        The new values are computed as well, so that all fingerprints are proven before anything is
        overwritten. The journal is on disk when this returns.

        Args:
            works: The tensors that change.
            links: The chain.
            small: The small files that change.
            parts: The parts of the model.
            files: The open files of the model.
            limits: Threads and buffers.
            max_bytes: Upper bound for memory.
            advance: Is told of the bytes that are read.

        Raises:
            InputError: The model is another one, or a patch is damaged.
            StorageError: The journal cannot be written.
        """
        with _translating(self._new):
            self._remove(self._new)
            self._new.mkdir()
        paths = [self._new / f"{i:04d}.safetensors" for i in range(len(links))]
        keepers = [Keeper(path, link, links) for path, link in zip(paths, links, strict=True)]
        of_link = dict(zip(map(id, links), keepers, strict=True))
        try:
            jobs = Jobs(files, {})
            for batch in load(works, max_bytes, limits.n_threads):
                found = apply_changes(
                    plan=files.plan,
                    tasks=[one.task(jobs.of(one.work)) for one in batch],
                    limits=limits,
                    with_values=True,
                    progress=advance or None,
                )
                for one, kept in zip(batch, found, strict=True):
                    one.work.add(kept.old, kept.new)
                    for (link, change), *values in zip(
                        one.changes, kept.old_values, kept.new_values, strict=True
                    ):
                        before, now = (memoryview(some).cast("B") for some in values)
                        old = PartChange(change.layout, change.positions, before, change.blocks)
                        of_link[id(link)].keep(one.work, one.number, one.n_elements, old, now)
            for work in works:
                work.check_old(links[0])
                work.check_new()
            for keeper in keepers:
                keeper.finish()
        finally:
            for keeper in keepers:
                keeper.close()
        with _translating(self._new):
            record = self._record(len(links), small, parts)
            self._keep_small(record, small)
            (self._new / RECORD).write_text(record.to_json(), encoding="utf-8")
            for folder, _, names in os.walk(self._new):
                for path in (*(os.path.join(folder, name) for name in names), folder):
                    flush(path)
            flush(self.home)
            self._write_notes(record)
            os.rename(self._new, self.path)
            flush(self.home)

    def _record(self, n_links: int, small: SmallOut, parts: Iterable[ModelPart]) -> Record:
        covered = {
            os.path.relpath(os.path.realpath(file), self.home): part.prefix
            for part in parts
            for file in part.files
        }
        folders = {parent for name in small.texts for parent in PurePosixPath(name).parents}
        made = sorted(str(one) for one in folders if not (self.home / one).exists())
        old: dict[str, str | None] = {}
        for name in sorted(small.done):
            place = self.home / name
            old[name] = checksum(place.read_bytes()) if place.is_file() else None
        return Record(n_links, covered, old, made)

    def _keep_small(self, record: Record, small: SmallOut) -> None:
        """Keep the old small files under other names, and write the new ones: no more is needed."""
        for name, of_old in record.small_files.items():
            kept = self._new / _OLD / name
            if of_old is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(self.home / name, kept)
                except OSError:  # There are systems without such links, and files of others.
                    write_file(kept, (self.home / name).read_bytes())
            if name in small.texts:
                write_file(self._new / _COMING / name, small.texts[name])

    def _write_notes(self, record: Record) -> None:
        for folder in record.folders:
            note = self.home / folder / NOTE
            new = note.with_name(f"{NOTE}.new")
            new.write_text("/".join([".."] * len(PurePosixPath(folder).parts)), encoding="utf-8")
            flush(new)
            os.replace(new, note)
            flush(note.parent)

    def read(self) -> Record:
        """Return what the journal covers; InputError if it is damaged."""
        with self.telling_of_damage():
            return Record.read(self.path / RECORD)

    def links(self) -> list[KeptLink]:
        """Return the patches that restore the old model; InputError if the journal is damaged."""
        n_links = self.read().n_links
        with self.telling_of_damage():
            paths = [self.path / f"{i:04d}.safetensors" for i in range(n_links)]
            return [KeptLink(Patch.open(path), journal=self) for path in paths]

    @contextlib.contextmanager
    def telling_of_damage(self) -> Iterator[None]:
        """Raise InputErrors of a part of the journal as those of the journal, with the way out."""
        try:
            yield
        except InputError as error:
            why = str(error).removesuffix("; copy or make the patch again")
            raise InputError(
                f"{why}; it is part of the journal of a change in place that was interrupted, and "
                "the old model cannot be restored without it; nothing was written; put a copy of "
                f"the model in its place, old or new, and remove {self.path}"
            ) from None

    def put_small(self) -> None:
        """Put the new small files in their places, without need of room."""
        record = self.read()
        with _translating(self.home):
            for folder in record.made:
                (self.home / folder).mkdir(exist_ok=True)
        for name in record.small_files:
            self._put(self.path / _COMING / name, name)

    def old_small(self, name: str) -> Path:
        """Return the place where the old one of a small file is kept."""
        return self.path / _OLD / name

    def restore_small(self) -> None:
        """Put the old small files back, those that were moved away, without need of room."""
        record = self.read()
        for name, of_old in record.small_files.items():
            kept = self.old_small(name)
            # An old file that is not kept any more was put back by a run that was killed then.
            if kept.is_file() or of_old is None:
                self._put(kept, name)
        for folder in reversed(record.made):
            with contextlib.suppress(OSError):
                (self.home / folder).rmdir()

    def _put(self, source: Path, name: str) -> None:
        """Move a file to its place; remove what is there if there is none."""
        place = self.home / name
        with _translating(place):
            if source.is_file():
                os.replace(source, place)
            else:
                place.unlink(missing_ok=True)

    def drop(self) -> None:
        """Remove the journal, at once for all who look for it; StorageError if that fails."""
        with _translating(self.path):
            self._remove(self._done)
            os.rename(self.path, self._done)
            flush(self.home)
        self.sweep()

    def discard(self) -> None:
        """Remove a journal whose writing failed, of a model that is as it was."""
        if self.is_complete:
            with contextlib.suppress(StorageError):
                self.drop()
        self.sweep()

    def sweep(self) -> None:
        """Remove what is left of journals that were not complete, or are no more."""
        for path in (self._new, self._done):
            self._remove(path)

    def _remove(self, path: Path) -> None:
        """Remove the directory of a journal, and before it the notes that lead to it."""
        if path.is_dir() and not self.is_complete:
            with contextlib.suppress(TalliesError, OSError):
                for folder in Record.read(path / RECORD).folders:
                    (self.home / folder / NOTE).unlink(missing_ok=True)
                    flush(self.home / folder)
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _translating(place: Path) -> Iterator[None]:
    """Raise StorageError in place of an error of the system, with the file that it names."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        name = error.filename or place
        raise StorageError(f"{name}: cannot be written: {error.strerror or error}") from None
