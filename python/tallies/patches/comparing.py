"""Compares two models part by part, and writes what differs behind the comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Final

from .._core import FoundChanges, Limits, Plan, Slice, find_changes
from ..engine.files import PlanFiles
from ..engine.fingerprints import add_content, model_fingerprint
from ..engine.usage import Advance
from ..linalg.threads import Workers
from ..spec.dtypes import DTYPES
from .kept import KeptFile, kept_files
from .layout import PART_BYTES, VALUES, n_parts, parts_of
from .manifest import Manifest, Part, Stored, TensorChange, table
from .models import Model
from .pairs import Pair, pair_up
from .part_change import PartChange
from .small import Differing
from .writing import InDirectory, InOne, Writer, longest_entries, metadata_room

# A batch is in memory with what is found of it, while that of the batch before is written.
_BATCH_SHARE: Final = 8
_MOST_BATCH_BYTES: Final = 1 << 28

Batch = list[tuple[Pair, int, int, int]]
"""Parts to compare at once: the tensor, the number of the part, its first element and elements."""


class Comparison:
    """Two models that are compared, and what is found written.

    Args:
        sides: The old and the new model.
        values: The kind of values.
        coder: The coder.
    """

    def __init__(self, sides: tuple[Model, Model], values: str, coder: str) -> None:
        self._old, self._new = sides
        self._values, self._coder = values, coder
        self.pairs = pair_up(*sides)
        self.small = Differing.between(*sides)

    @property
    def bytes_read(self) -> int:
        """The bytes of both models."""
        return sum(pair.n_bytes(pair.old) + pair.n_bytes(pair.new) for pair in self.pairs)

    def entry_names(self) -> list[str]:
        """Return the names of all entries that there may be."""
        parts = {pair.name: len(pair.slices()) for pair in self.pairs if pair.is_compared}
        whole = {pair.name: n_parts(*pair.new) for pair in self._whole() if pair.new is not None}
        return longest_entries(parts, whole, [one.entry for one in self._kept()])

    def metadata_room(self) -> int:
        """Return the bytes that the manifest takes in the header of a file, at most."""
        print_of_one, print_of_all = "0" * 16, "0" * 32
        tensors = []
        for pair in self.pairs:
            whole = self._coder != "none" and pair.is_stored_whole and pair.new is not None
            slices = parts_of(*pair.new) if whole and pair.new is not None else pair.slices()
            pair.parts = [
                Part(first=at, n_elements=n, layout="dense", n_changed=n) for at, n in slices
            ]
            tensors.append(pair.record())
            pair.parts = []
        stored = Stored(file="", fingerprint=print_of_one)
        return metadata_room(
            Manifest.model_construct(
                values=self._values,
                coder=self._coder,
                old=print_of_all,
                new=print_of_all,
                tensors=tuple(tensors),
                stored=dict.fromkeys(self.entry_names(), stored),
                small_files=self.small.records,
            )
        )

    def run(
        self, place: InDirectory | InOne, limits: Limits, max_bytes: int, advance: Advance
    ) -> Manifest:
        """Compare the models, write what is found, and return the manifest, which is written."""
        writer = Writer(place, self._coder, self._values, limits.n_threads)
        most = max(PART_BYTES, min(max_bytes // _BATCH_SHARE, _MOST_BATCH_BYTES))
        with Workers(1) as behind:
            written: Future[None] | None = None
            for batch, found in self._found(most, limits, advance):
                if written is not None:
                    written.result()
                written = behind.submit_undisturbed(self._write, writer, batch, found)
            if written is not None:
                written.result()
        for pair in self._whole():
            self._copy(writer, pair)
        for pair in self.pairs:
            if pair.old is not None and not pair.is_compared:
                pair.old_lanes = self._old.content(pair.name)
        for one in self._kept():
            place.keep(one, self.small.place(one))
        return self._finish(place)

    def _finish(self, place: InDirectory | InOne) -> Manifest:
        tensors: tuple[TensorChange, ...] = tuple(pair.record() for pair in self.pairs)
        manifest = Manifest.model_validate(
            {
                "values": self._values,
                "coder": self._coder,
                "old": model_fingerprint(table(tensors, new=False)),
                "new": model_fingerprint(table(tensors, new=True)),
                "tensors": tensors,
                "stored": place.stored,
                "small_files": self.small.records,
            }
        )
        place.finish(manifest)
        return manifest

    def _kept(self) -> list[KeptFile]:
        return kept_files(self.small.records, both=self._values != "new")

    def _whole(self) -> list[Pair]:
        """Return the tensors that are stored whole, in an order in which each is aligned."""
        pairs = [pair for pair in self.pairs if pair.is_stored_whole]
        return sorted(pairs, key=lambda pair: (-DTYPES[pair.new[0]], pair.name))  # type: ignore[index]

    def _found(
        self, most: int, limits: Limits, advance: Advance
    ) -> Iterator[tuple[Batch, Sequence[FoundChanges]]]:
        """Yield parts and what changed in them, in the order of the names."""
        files = PlanFiles(Plan(True))
        jobs: dict[str, int] = {}
        held: dict[str, object] = {}
        for batch in _batches(self.pairs, most):
            for pair, *_ in batch:
                if pair.name not in jobs:
                    jobs[pair.name] = len(jobs)
                    places = [side.place(files, pair.name) for side in (self._old, self._new)]
                    held[pair.name] = [owner for _, owner in places]
                    files.plan.add_job(pair.n_elements, [one for one, _ in places], [])
            found = find_changes(
                plan=files.plan,
                slices=[
                    Slice(job=jobs[pair.name], first=first, n_elements=n)
                    for pair, _, first, n in batch
                ],
                coding=VALUES.index(self._values),
                limits=limits,
                progress=advance or None,
            )
            last = batch[-1][0].name
            held = {name: one for name, one in held.items() if name == last}
            yield batch, found

    @staticmethod
    def _write(writer: Writer, batch: Batch, found: Sequence[FoundChanges]) -> None:
        for (pair, number, first, n), one in zip(batch, found, strict=True):
            assert pair.new is not None
            add_content(pair.old_lanes, one.old)
            add_content(pair.new_lanes, one.new)
            change = PartChange.of(one)
            pair.parts.append(
                Part(first=first, n_elements=n, layout=change.layout, n_changed=one.n_changed)
            )
            writer.add_part(pair.name, pair.new[0], number, n, change)

    def _copy(self, writer: Writer, pair: Pair) -> None:
        assert pair.new is not None
        pair.new_lanes, pair.parts = writer.add_new(
            pair.name, pair.new, lambda write: self._new.copy_out(pair.name, write)
        )


def _batches(pairs: Sequence[Pair], most: int) -> Iterator[Batch]:
    """Yield the parts to compare, as many at a time as take ``most`` bytes of each model."""
    batch: Batch = []
    n_bytes = 0
    for pair in pairs:
        for number, (first, n) in enumerate(pair.slices()):
            assert pair.new is not None
            own = n * DTYPES[pair.new[0]]
            if batch and n_bytes + own > most:
                yield batch
                batch, n_bytes = [], 0
            batch.append((pair, number, first, n))
            n_bytes += own
    if batch:
        yield batch
