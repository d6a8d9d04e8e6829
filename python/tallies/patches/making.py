"""``make_patch``: two models -> the exact difference between them."""

from __future__ import annotations

import os
import time
from typing import Final

from ..checkpoint.destination import Destination
from ..checkpoint.files import refuse_changed, stamps
from ..engine.bar import with_progress
from ..engine.environment import in_float_environment
from ..engine.limits import allow_open_files, n_threads, tile_limits, too_little
from ..engine.page_cache import io_code
from ..engine.usage import Advance, Progress, measure
from ..errors import InputError
from ..messages import either, show
from ..sizes import parse_size
from .comparing import Comparison
from .growing import InBytes, InFile, longest_header
from .layout import VALUES
from .models import OnDisk, Source
from .replacing import refuse_other_kind
from .report import PatchReport, counts
from .sides import open_sides, warnings_of
from .writing import InDirectory, InOne

CODERS: Final = ("none", "zstd")


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

    Tensors are compared by the bits that are stored, of any dtype. Tensors of a dict that share
    their memory, such as tied weights, count once, by the name that the other side has. Small
    files that differ are kept where both models are directories.

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
    sides = open_sides(old, new, variant)
    making = Comparison(sides, values, coder)
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
        refuse_other_kind(destination.path, with_patch=True)
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
    kept = sum(one.n_bytes for one in manifest.kept_files)
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
        warnings=[
            *warnings_of(making.pairs),
            *making.small.warnings(),
            *filter(None, [too_little(max_bytes, limits.n_threads)]),
        ],
        **counts(manifest.tensors),
        **measure(start, making.bytes_read, n_bytes, limits.n_threads, limits.bytes_direct),
    )
