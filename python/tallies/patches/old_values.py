"""The old values of elements that a run in place changes, as a patch, and the new ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from ..engine.fingerprints import model_fingerprint
from .chains import Link
from .growing import InFile, longest_header
from .layout import parts_of
from .manifest import Manifest, Part, Stored, TensorChange
from .new_values import NewValues
from .part_change import PartChange
from .works import Work
from .writing import InOne, Writer, longest_entries, metadata_room

NEW_SUFFIX: Final = ".new"
"""The suffix of the file of new values beside the one of old values."""


class Keeper:
    """Writes the old values of one link's changes as a patch, and the new ones in another file."""

    def __init__(self, path: Path, link: Link, links: Sequence[Link]) -> None:
        before, after = links[0].old_table, links[-1].new_table
        self._records = tuple(_way_back(one, before, after) for one in link.changes.values())
        self._tables = (after, before)
        parts = {one.name: len(one.parts) for one in self._records}
        names = longest_entries(parts, {}, [])
        print_of_one = Stored(file="", fingerprint="0" * 16)
        room = metadata_room(self._manifest(dict.fromkeys(names, print_of_one)))
        self._place = InOne(InFile(path, longest_header(names) + room))
        self._writer = Writer(self._place)
        self._new = NewValues(path.with_suffix(NEW_SUFFIX), "wb")

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

    def keep(self, work: Work, number: int, n: int, old: PartChange, new: memoryview) -> None:
        """Write the old values of a part, and those that the whole chain makes in their place."""
        self._writer.add_part(work.name, work.source.dtype, number, n, old)
        self._new.write(new)

    def finish(self) -> None:
        """Write the manifest."""
        self._place.finish(self._manifest(self._place.stored))
        self._new.close()

    def close(self) -> None:
        """Close the files."""
        self._place.close()
        self._new.close()


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
