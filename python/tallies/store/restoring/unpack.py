"""``unpack``: one task of a store -> a checkpoint directory."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..._core import Plan
from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.destination import Destination
from ...checkpoint.files import auxiliary_sizes, copy_auxiliary, refuse_changed, stamps
from ...checkpoint.layout import INDEX_NAME, index_file, layout_shards
from ...engine.environment import in_float_environment
from ...engine.files import Place, PlanFiles
from ...engine.fingerprints import model_fingerprint, tensor_fingerprint
from ...engine.limits import allow_open_files, n_threads, tile_limits
from ...engine.usage import done_line, peak_memory_bytes
from ...sizes import parse_size
from ..layout import Layout
from .task import Restoring

_OTHER_BYTES = 1 << 20


@dataclass(frozen=True)
class UnpackReport:
    """What unpacking did. ``exact`` says that the result is the expert bit for bit."""

    store: str
    task: str
    path: str
    codec: str
    source: str
    fingerprint: str
    exact: bool
    files: dict[str, int]
    auxiliary_files: list[str]
    bytes_read: int
    bytes_written: int
    seconds: float
    gb_per_second: float
    peak_memory_bytes: int
    threads: int

    def to_json_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)

    def to_json(self) -> str:
        """The report as JSON, indented."""
        return json.dumps(self.to_json_dict(), indent=2, ensure_ascii=False) + "\n"

    def __str__(self) -> str:
        verdict = "the expert bit for bit" if self.exact else f"a reconstruction of {self.source}"
        return (
            f"{self.task} ({self.codec}) -> {self.path}: {verdict}\n"
            f"{done_line(self)}, result {self.fingerprint}"
        )


@in_float_environment
def unpack(
    one: Restoring,
    out: str | os.PathLike[str],
    *,
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    max_shard_size: str | int = "5GB",
    files_from: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    sync: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> UnpackReport:
    """Write a task's checkpoint into the new directory ``out``, tile by tile in bounded memory.

    Configuration, tokenizer and other small files are the base's, or those of ``files_from``.
    Everything read is compared with its checksum; ``out`` appears by a rename when it is complete.
    Raises InputError for a damaged store or another base, StorageError when reading or writing
    fails.
    """
    start = time.perf_counter()
    tensors = one.manifest.tensors
    entries = [(name, one.dtype(name), tensor.shape) for name, tensor in tensors.items()]
    shards = layout_shards(entries, parse_size(max_shard_size))
    donor = one.base if files_from is None else Checkpoint.open(files_from)
    auxiliary = auxiliary_sizes(donor)
    layout = Layout({shard.name: shard.tensors for shard in shards}, {"format": "pt"})
    n_bytes = layout.n_bytes
    destination = Destination(out, [one.base.path, one.path, donor.path], overwrite)
    limits = tile_limits(max_memory, n_threads(threads))
    sources = [*one.base.files, *(one.path / file for file in one.files)]
    moved = 0

    def advance(more: int) -> None:
        nonlocal moved
        moved += more
        if progress is not None:
            progress(min(moved, 2 * n_bytes), 2 * n_bytes)

    destination.check_space(n_bytes + sum(auxiliary.values()) + _OTHER_BYTES)
    allow_open_files(len(sources) + len(shards))
    before = stamps(sources)
    with destination.writing(resume=False, sync=sync) as directory:
        files = PlanFiles(Plan(True))
        layout.create(files, directory)
        places = {name: at for row in layout.places(directory).values() for name, at in row.items()}
        outputs: dict[str, list[Place]] = {}
        lanes: dict[str, list[int]] = {}
        for name in tensors:
            if one.is_coded(name):
                outputs.setdefault(one.source(name), []).append(files.place(places[name]))
            else:
                lanes[name] = one.copy(name, files.writer(places[name]))
        restored = one.restore(files, outputs, limits, advance)
        lanes |= {name: restored[one.source(name)] for name in tensors if one.is_coded(name)}
        if (index := index_file(shards)) is not None:
            (directory / INDEX_NAME).write_bytes(index)
        for path in auxiliary:
            copy_auxiliary(donor, path, directory)
        refuse_changed(before)
    advance(2 * n_bytes - moved)
    seconds = time.perf_counter() - start
    fingerprint = model_fingerprint(
        {name: tensor_fingerprint(place, lanes[name]) for name, place in places.items()}
    )
    task = one.manifest.tasks[one.task]
    return UnpackReport(
        store=str(one.path),
        task=one.task,
        path=str(destination.path),
        codec=one.manifest.codec,
        source=task.source,
        fingerprint=fingerprint,
        exact=fingerprint == task.fingerprint,
        files={file: layout.file_bytes(file) for file in layout.entries},
        auxiliary_files=[str(path) for path in auxiliary],
        bytes_read=one.n_bytes_read(),
        bytes_written=n_bytes,
        seconds=seconds,
        gb_per_second=(one.n_bytes_read() + n_bytes) / 1e9 / seconds,
        peak_memory_bytes=peak_memory_bytes(),
        threads=n_threads(threads),
    )
