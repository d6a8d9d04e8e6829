"""The journal of a change in place: the old values, beside the files, until all is written.

A journal is a patch for each link of the chain, with the link's positions and the old values. As
these are values and no differences, they restore the old model whatever was written of the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .._core import Limits, apply_changes
from ..checkpoint.json_text import json_object, read_text
from ..checkpoint.locks import flush
from ..engine.files import PlanFiles
from ..engine.fingerprints import model_fingerprint
from ..engine.usage import Advance
from ..errors import InputError, StorageError
from ..messages import show
from .chains import Link
from .growing import InFile, longest_header
from .kept import is_small_name
from .layout import parts_of
from .manifest import Manifest, Part, Stored, TensorChange
from .opened import Patch
from .part_change import PartChange
from .small import SmallOut, write_file
from .works import Jobs, Work, load
from .writing import InOne, Writer, longest_entries, metadata_room

_RECORD: Final = "journal.json"
_SMALL: Final = "small"


class Journal:
    """The journal beside a model.

    Args:
        path: The directory of the journal, which is there while it is complete.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new = path.with_name(f"{path.name}.new")
        self._done = path.with_name(f"{path.name}.done")

    @property
    def is_complete(self) -> bool:
        """True if a run wrote a journal and did not come to its end."""
        return self.path.is_dir()

    def write(
        self,
        works: Sequence[Work],
        links: Sequence[Link],
        small: SmallOut,
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
            files: The open files of the model.
            limits: Threads and buffers.
            max_bytes: Upper bound for memory.
            advance: Is told of the bytes that are read.

        Raises:
            InputError: The model is another one, or a patch is damaged.
            StorageError: The journal cannot be written.
        """
        with _translating(self._new):
            shutil.rmtree(self._new, ignore_errors=True)
            self._new.mkdir()
        paths = [self._new / f"{i:04d}.safetensors" for i in range(len(links))]
        keepers = [_Keeper(path, link, links) for path, link in zip(paths, links, strict=True)]
        of_link = dict(zip(map(id, links), keepers, strict=True))
        try:
            jobs = Jobs(files, {})
            for batch in load(works, max_bytes, limits.n_threads):
                found = apply_changes(
                    plan=files.plan,
                    tasks=[one.task(jobs.of(one.work)) for one in batch],
                    limits=limits,
                    with_old_values=True,
                    progress=advance or None,
                )
                for one, kept in zip(batch, found, strict=True):
                    one.work.add(kept.old, kept.new)
                    for (link, change), values in zip(one.changes, kept.old_values, strict=True):
                        old = PartChange(
                            change.layout,
                            change.positions,
                            memoryview(values).cast("B"),
                            change.blocks,
                        )
                        of_link[id(link)].keep(one.work, one.number, one.n_elements, old)
            for work in works:
                work.check_old(links[0])
                work.check_new()
            for keeper in keepers:
                keeper.finish()
        finally:
            for keeper in keepers:
                keeper.close()
        self._keep_small(small)
        with _translating(self._new):
            record = {"n_links": len(links), "small_files": sorted(small.done)}
            (self._new / _RECORD).write_text(json.dumps(record), encoding="utf-8")
            for folder, _, names in os.walk(self._new):
                for path in (*(os.path.join(folder, name) for name in names), folder):
                    flush(path)
            os.rename(self._new, self.path)
            flush(self.path.parent)

    def _keep_small(self, small: SmallOut) -> None:
        for name in small.done:
            place = self.path.parent / name
            if place.is_file():
                write_file(self._new / _SMALL / name, place.read_bytes())

    def links(self) -> list[Link]:
        """Return the patches that restore the old model; InputError if the journal is damaged."""
        n = self._read_record().get("n_links")
        if type(n) is not int or n < 1:
            raise InputError(f"{self.path / _RECORD}: is damaged; restore the model yourself")
        return [Link(Patch.open(self.path / f"{i:04d}.safetensors")) for i in range(n)]

    def restore_small(self) -> None:
        """Put the old small files back."""
        root = self.path.parent
        names = self._read_record().get("small_files")
        for name in names if isinstance(names, list) else ():
            if not isinstance(name, str) or not is_small_name(name):
                raise InputError(f"{self.path / _RECORD}: names {show(name)}; it is damaged")
            kept = self.path / _SMALL / name
            with _translating(root / name):
                if kept.is_file():
                    replace_file(root / name, kept.read_bytes())
                else:
                    (root / name).unlink(missing_ok=True)

    def _read_record(self) -> dict[str, Any]:
        place = self.path / _RECORD
        return json_object(read_text(place), str(place))

    def drop(self) -> None:
        """Remove the journal, at once for all who look for it; StorageError if that fails."""
        with _translating(self.path):
            shutil.rmtree(self._done, ignore_errors=True)
            os.rename(self.path, self._done)
            flush(self.path.parent)
        self.sweep()

    def sweep(self) -> None:
        """Remove what is left of journals that were not complete, or are no more."""
        for path in (self._new, self._done):
            shutil.rmtree(path, ignore_errors=True)


class _Keeper:
    """Writes the old values of one link's changes as a patch in one file."""

    def __init__(self, path: Path, link: Link, links: Sequence[Link]) -> None:
        before, after = links[0].old_table, links[-1].new_table
        self._records = tuple(_way_back(one, before, after) for one in link.changes.values())
        self._tables = (after, before)
        parts = {one.name: len(one.parts) for one in self._records}
        names = longest_entries(parts, [], [])
        print_of_one = Stored(file="", fingerprint="0" * 16)
        room = metadata_room(self._manifest(dict.fromkeys(names, print_of_one)))
        self._place = InOne(InFile(path, longest_header(names) + room))
        self._writer = Writer(self._place)

    def _manifest(self, stored: Mapping[str, Stored]) -> Manifest:
        after, before = self._tables
        return Manifest.model_validate(
            {
                "values": "new",
                "coder": "none",
                "old": model_fingerprint(after),
                "new": model_fingerprint(before),
                "tensors": self._records,
                "stored": stored,
                "small_files": {},
            }
        )

    def keep(self, work: Work, number: int, n: int, old: PartChange) -> None:
        """Write the old values of a part."""
        self._writer.add_part(work.name, work.source.dtype, number, n, old)

    def finish(self) -> None:
        """Write the manifest."""
        self._place.finish(self._manifest(self._place.stored))

    def close(self) -> None:
        """Close the file."""
        self._place.close()


def _way_back(
    one: TensorChange, before: Mapping[str, str], after: Mapping[str, str]
) -> TensorChange:
    """Return the record of the change that leads back to the model before the chain."""
    was, now = before[one.name], after[one.name]
    if one.change == "changed":
        return one.model_copy(update={"old": now, "new": was})
    # Another link may change the tensor: then this one has parts in which nothing changed.
    parts = () if was == now else tuple(_unchanged_parts(one))
    change = "none" if was == now else "changed"
    return one.model_copy(update={"old": now, "new": was, "change": change, "parts": parts})


def _unchanged_parts(one: TensorChange) -> Iterator[Part]:
    """Yield the parts of a tensor in which nothing changed."""
    for first, n in parts_of(one.dtype, one.shape):
        yield Part(first=first, n_elements=n, layout="none", n_changed=0)


def replace_file(path: Path, text: bytes) -> None:
    """Replace a small file at once; OSError when that fails."""
    new = path.with_name(f".{path.name}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        new.write_bytes(text)
        flush(new)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


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
