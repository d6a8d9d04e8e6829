"""``unpack``: one task of a store -> a checkpoint directory."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable

from ..._core import Plan
from ...checkpoint.destination import Destination
from ...checkpoint.files import refuse_changed, stamps
from ...checkpoint.layout import index_files, layout_parts, one_file
from ...checkpoint.metadata import RECIPE
from ...checkpoint.occupied import REPORT_NAME
from ...checkpoint.tensors import TensorInfo
from ...engine.bar import with_progress
from ...engine.environment import in_float_environment
from ...engine.files import Place, PlanFiles
from ...engine.fingerprints import model_fingerprint, tensor_fingerprint
from ...engine.limits import allow_open_files, n_threads, tile_limits
from ...engine.page_cache import io_code
from ...engine.usage import Advance, Progress, measure
from ...errors import InputError
from ...sizes import parse_size
from ..origins import resolved
from .report import UnpackReport
from .small import SmallFilesOut
from .task import Restoring

_OTHER_BYTES = 1 << 20


@with_progress("unpack")
@in_float_environment
def unpack(
    one: Restoring,
    out: str | os.PathLike[str],
    *,
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    max_shard_size: str | int = "5GB",
    files_from: str | os.PathLike[str] | None = None,
    tensors: Iterable[str] | None = None,
    overwrite: bool = False,
    sync: bool = False,
    io: str = "auto",
    progress: Progress = None,
) -> UnpackReport:
    """Write the checkpoint of one task, tile by tile in bounded memory.

    Everything that is read is compared with its checksum. The result appears by a rename when it
    is complete.

    Args:
        one: The task.
        out: The directory to create, or a file whose name ends in ``.safetensors``.
        max_memory: Upper bound for memory, as bytes or as text such as "1GiB".
        threads: The number of threads; by default, all cores.
        max_shard_size: The largest tensor file, as bytes or as text.
        files_from: A checkpoint whose configuration, tokenizer and other small files are copied;
            by default, the task's own files are written as they were.
        tensors: The tensors to write, which needs ``out`` to be a file; by default, all. Nothing
            else is read.
        overwrite: Replace an earlier result. Anything else in its place is an error.
        sync: Flush the files to disk before the result appears.
        io: How to read the inputs: "buffered", "direct" or "auto", as for ``merge``.
        progress: True for a bar on standard error, False or None for none, or a function that is
            called with the bytes moved so far and the bytes to move in all.

    Returns:
        The report.

    Raises:
        InputError: The store is damaged, the base is another one, or the output is occupied.
        StorageError: Reading or writing fails.
    """
    start = time.perf_counter()
    if tensors is not None:
        one = one.of_tensors(tensors)
    entries = one.entries()
    shards = layout_parts(entries, one.template, parse_size(max_shard_size))
    small = SmallFilesOut.of(one, entries, files_from)
    donors = [] if small.donor is None else [small.donor]
    inputs = [one.base.path, one.path, *donors] if one.manifest.has_base else [one.path, *donors]
    destination = Destination(out, inputs, overwrite, of_weights=True)
    if one.only is not None and not destination.is_file:
        raise InputError(
            f"output {str(out)!r}: expected a file whose name ends in .safetensors, as some "
            "tensors alone are no model"
        )
    if destination.is_file:
        origin = {RECIPE: json.dumps({"task": one.task, "codec": one.manifest.codec})}
        name = destination.path.name
        shards = [one_file(name, entries, one.template, origin, files_from=files_from)]
        small, donors = SmallFilesOut.none(), []
    sizes = {shard.name: len(shard.header()[0]) + shard.n_bytes for shard in shards}
    n_bytes = sum(sizes.values())
    sources = [*one.base.files, *(one.path / file for file in one.files)]
    limits = tile_limits(parse_size(max_memory), n_threads(threads), io_code(io, sources))
    advance = Advance(progress, 2 * n_bytes)
    destination.check_space(n_bytes + small.files.n_bytes + _OTHER_BYTES)
    allow_open_files(len(sources) + len(shards))
    before = stamps(sources)
    with destination.writing(resume=False, sync=sync) as directory:
        files = PlanFiles(Plan(True))
        places: dict[str, TensorInfo] = {}
        for shard in shards:
            path = directory / shard.name
            path.parent.mkdir(parents=True, exist_ok=True)
            files.create(path, sizes[shard.name])
            files.write_head(path, shard.header()[0])
            places |= shard.places(directory)
        outputs: dict[str, list[Place]] = {}
        lanes: dict[str, list[int]] = {}
        for name in one.names:
            if one.is_coded(name):
                outputs.setdefault(one.source(name), []).append(files.place(places[name]))
            else:
                lanes[name] = one.copy(name, files.writer(places[name]))
        restored = one.restore(files, outputs, limits, advance)
        lanes |= {name: restored[one.source(name)] for name in one.names if one.is_coded(name)}
        files.close_written()
        for name, index in index_files(shards).items():
            (directory / name).write_bytes(index)
        small.files.copy(directory)
        refuse_changed(before)
        fingerprint = model_fingerprint(
            {name: tensor_fingerprint(place, lanes[name]) for name, place in places.items()}
        )
        task = one.manifest.tasks[one.task]
        report = UnpackReport(
            store=str(one.path),
            task=one.task,
            path=str(destination.path),
            codec=one.manifest.codec,
            source=resolved(task.source, one.path),
            fingerprint=fingerprint,
            tensors=None if one.only is None else list(one.names),
            exact=fingerprint == task.fingerprint and task.is_whole,
            files=sizes,
            auxiliary_files=[path.as_posix() for path in small.files.paths],
            kept_files=small.kept,
            files_from=small.text,
            **measure(start, one.n_bytes_read(), n_bytes, limits.n_threads, limits.bytes_direct),
        )
        if not destination.is_file:
            (directory / REPORT_NAME).write_text(report.record(), encoding="utf-8")
    advance.finish()
    return report
