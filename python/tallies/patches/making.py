"""``make_patch``: two models -> the exact difference between them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from .._core import FoundChanges, Limits, Plan, Slice, find_changes
from ..checkpoint.destination import Destination
from ..checkpoint.files import refuse_changed, stamps
from ..engine.bar import with_progress
from ..engine.environment import in_float_environment
from ..engine.files import PlanFiles
from ..engine.fingerprints import add_content, model_fingerprint
from ..engine.limits import allow_open_files, n_threads, tile_limits
from ..engine.page_cache import io_code
from ..engine.usage import Advance, Progress, measure
from ..errors import InputError
from ..messages import either, show
from ..sizes import parse_size
from ..spec.dtypes import DTYPES
from .growing import InBytes, InFile, longest_header
from .layout import PART_BYTES, VALUES
from .manifest import Manifest, Part, Stored, TensorChange, table
from .models import Model, OnDisk, Source, open_side
from .opened import PartChange
from .pairs import Pair, pair_up
from .report import PatchReport, counts
from .small import differing
from .writing import InDirectory, InOne, Writer, longest_entries, metadata_room

CODERS: Final = ("none", "zstd")

# A batch is in memory with what is found of it, while that of the batch before is written.
_BATCH_SHARE: Final = 8
_MOST_BATCH_BYTES: Final = 1 << 28


@with_progress("patch")
@in_float_environment
def make_patch(
    old: Source,
    new: Source,
    out: str | os.PathLike[str] | None = None,
    *,
    values: str = "xor",
    coder: str = "none",
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    variant: str | None = None,
    overwrite: bool = False,
    sync: bool = False,
    io: str = "auto",
    progress: Progress = None,
) -> PatchReport:
    """Make the exact difference of two models, in one read and in bounded memory.

    Tensors are compared by the bits that are stored, of any dtype. Small files that differ are kept
    where both models are directories.

    Args:
        old: The model to start from: a path, a model of the hub, or a dict of numpy arrays or torch
            tensors.
        new: The model to reach, likewise.
        out: The directory to create, or a file whose name ends in ``.safetensors``; None for bytes,
            which the report then has as ``data``.
        values: "xor" keeps old ^ new of the bit patterns, by which the same patch leads both ways;
            "difference" new - old, modulo the size; "new" the new values.
        coder: "none", or "zstd" to code what is stored, with the extra ``tallies[zstd]``.
        max_memory: Upper bound for memory, as bytes or as text such as "1GiB".
        threads: The number of threads; by default, all cores.
        variant: The variant of the weights to read of models that have several, such as "fp16".
        overwrite: Replace an earlier patch in the place of ``out``.
        sync: Flush the patch to disk before it appears.
        io: How to read the models: "buffered", "direct" or "auto", as for ``merge``.
        progress: True for a bar on standard error, False or None for none, or a function that is
            called with the bytes moved so far and the bytes to move in all.

    Returns:
        The report.

    Raises:
        InputError: The request or a model is wrong; nothing was written then.
        StorageError: Reading or writing fails.

    >>> tallies.make_patch("old", "new", "patch").n_changed  # doctest: +SKIP
    12345
    """
    start = time.perf_counter()
    if values not in VALUES:
        raise InputError(f"values: found {show(values)}, expected {either(VALUES)}")
    if coder not in CODERS:
        raise InputError(f"coder: found {show(coder)}, expected {either(CODERS)}")
    sides = (open_side(old, "old", variant), open_side(new, "new", variant))
    making = _Making(sides, values, coder)
    sources = [file for side in sides for file in side.files]
    max_bytes = parse_size(max_memory)
    limits = tile_limits(max_bytes, n_threads(threads), io_code(io, sources))
    allow_open_files(len(sources))
    before = stamps(sources)
    advance = Advance(progress, making.bytes_read)
    place: InDirectory | InOne
    if out is None:
        place = InOne(InBytes())
        manifest = making.run(place, limits, max_bytes, advance)
        refuse_changed(before)
        path = None
    else:
        inputs = [side.checkpoint.path for side in sides if isinstance(side, OnDisk)]
        destination = Destination(out, inputs, overwrite, of_weights=True)
        with destination.writing(resume=False, sync=sync) as directory:
            if destination.is_file:
                room = longest_header(making.entry_names()) + making.metadata_room()
                place = InOne(InFile(directory / destination.path.name, room))
            else:
                place = InDirectory(directory, making.entry_names())
            try:
                manifest = making.run(place, limits, max_bytes, advance)
            finally:
                place.close()
            refuse_changed(before)
        path = str(destination.path)
    advance.finish()
    data = place.data if isinstance(place, InOne) else None
    kept = sum(one.n_bytes for one in manifest.small_files.values() if one.new is not None)
    n_bytes = len(data) if data is not None else sum(place.files.values())
    n_bytes += kept if isinstance(place, InDirectory) else 0
    return PatchReport(
        kind="made",
        path=path,
        old=sides[0].label,
        new=sides[1].label,
        patches=[],
        old_fingerprint=manifest.old,
        new_fingerprint=manifest.new,
        values=values,
        coder=coder,
        n_elements=sum(pair.n_elements for pair in making.pairs if pair.is_compared),
        n_bytes=n_bytes,
        model_bytes=sum(pair.n_bytes(pair.new) for pair in making.pairs),
        files=place.files,
        small_files={name: one.change for name, one in manifest.small_files.items()},
        data=data,
        **counts(manifest.tensors),
        **measure(start, making.bytes_read, n_bytes, limits.n_threads, limits.bytes_direct),
    )


Batch = list[tuple[Pair, int, int, int]]
"""Parts to compare at once: the tensor, the number of the part, its first element and elements."""


class _Making:
    """One patch in the making.

    Args:
        sides: The old and the new model.
        values: The kind of values.
        coder: The coder.
    """

    def __init__(self, sides: tuple[Model, Model], values: str, coder: str) -> None:
        self._old, self._new = sides
        self._values, self._coder = values, coder
        self.pairs = pair_up(*sides)
        self._small = differing(*sides)

    @property
    def bytes_read(self) -> int:
        """The bytes of both models."""
        return sum(pair.n_bytes(pair.old) + pair.n_bytes(pair.new) for pair in self.pairs)

    def entry_names(self) -> list[str]:
        """Return the names of all entries that there may be."""
        parts = {pair.name: len(pair.slices()) for pair in self.pairs if pair.is_compared}
        whole = [pair.name for pair in self._whole()]
        small = [name for name, (one, _) in self._small.items() if one.new is not None]
        return longest_entries(parts, whole, small)

    def metadata_room(self) -> int:
        """Return the bytes that the manifest takes in the header of a file, at most."""
        print_of_one, print_of_all = "0" * 16, "0" * 32
        tensors = []
        for pair in self.pairs:
            slices = pair.slices()
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
                small_files={name: one for name, (one, _) in self._small.items()},
            )
        )

    def run(
        self, place: InDirectory | InOne, limits: Limits, max_bytes: int, advance: Advance
    ) -> Manifest:
        """Compare the models, write what is found, and return the manifest, which is written."""
        writer = Writer(place, self._coder)
        most = max(PART_BYTES, min(max_bytes // _BATCH_SHARE, _MOST_BATCH_BYTES))
        with ThreadPoolExecutor(1) as behind:
            written: Future[None] | None = None
            for batch, found in self._found(most, limits, advance):
                if written is not None:
                    written.result()
                written = behind.submit(self._write, writer, batch, found)
            if written is not None:
                written.result()
        for pair in self._whole():
            self._copy(writer, pair)
        for pair in self.pairs:
            if pair.old is not None and not pair.is_compared:
                pair.old_lanes = self._old.content(pair.name)
        for name, (one, source) in self._small.items():
            if one.new is not None:
                place.keep(name, source)
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
                "small_files": {name: one for name, (one, _) in self._small.items()},
            }
        )
        place.finish(manifest)
        return manifest

    def _whole(self) -> list[Pair]:
        """Return the tensors that are stored whole, in an order in which each is aligned."""
        pairs = [p for p in self.pairs if p.new is not None and not p.is_compared]
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
        pair.new_lanes = writer.add_new(
            pair.name,
            pair.new,
            pair.n_bytes(pair.new),
            lambda write: self._new.copy_out(pair.name, write),
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
