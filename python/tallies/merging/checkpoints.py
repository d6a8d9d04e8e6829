"""Merges checkpoints on disk: recipe, match, plan, passes, report."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from ..checkpoint.destination import Destination
from ..engine import device as accelerate
from ..engine.bar import is_bar, with_progress
from ..engine.environment import in_float_environment
from ..engine.limits import allow_open_files, n_threads, too_little
from ..engine.page_cache import io_code
from ..engine.usage import Progress
from ..lora.adapter_merge import merge_adapters
from ..lora.adapter_report import AdapterReport
from ..recipe.config import MergeConfig
from ..recipe.overrides import Overrides
from ..sizes import parse_size
from .checks import check_inputs
from .finishing import bytes_needed, check_memory, complete
from .journal import Journal
from .one_file import in_one_file
from .planning import plan
from .report import MergeReport
from .run import MergeRun
from .staging import staged


@with_progress("merge")
@in_float_environment
def merge(
    config: str | os.PathLike[str] | Mapping[str, Any] | MergeConfig,
    out: str | os.PathLike[str],
    *,
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    device: str = "cpu",
    max_vram: str | int = "4GiB",
    max_shard_size: str | int | None = None,
    seed: int | None = None,
    nonfinite: str | None = None,
    semantics: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    sync: bool = False,
    io: str = "auto",
    progress: Progress = None,
) -> MergeReport | AdapterReport:
    """Merge checkpoints on disk into a new directory or file, tile by tile in bounded memory.

    Inputs are widened to float32, sums run in float32 in the order of the experts, and each result
    is rounded once, to nearest even. Threads, memory and device change no byte of the result.

    ``out`` appears by a rename when it is complete. A run that failed or was killed leaves nothing
    in its place.

    Args:
        config: A recipe file, a mapping, a ``MergeConfig``, or the ``tallies.json`` of an earlier
            merge, which is then repeated.
        out: The directory to create, or a file whose name ends in ``.safetensors``: then nothing is
            written beside it, and a short recipe is in its header.
        max_memory: Upper bound for buffers, whatever the sizes and the number of models.
        threads: Number of threads; None for all cores.
        device: ``"cpu"``, or ``"cuda"`` to merge the tiles on the first CUDA device. If there is
            none, if the method has no kernel for it or if the way there is too slow, the processor
            merges; the report's warnings then say so.
        max_vram: Upper bound for buffers on the device.
        max_shard_size: Upper bound for the tensors of an output shard. Like the next three it
            replaces the recipe's value, and None keeps that.
        seed: Seed of the random methods.
        nonfinite: ``"error"``, ``"warn"`` of, or ``"propagate"`` NaN and infinite values.
        semantics: The author whose variant of the method is meant, such as ``"mergekit"``.
        resume: Go on from the finished files of a run that had ``resume`` as well and failed. A run
            of another recipe, or over inputs that changed since, is an error.
        overwrite: Replace an earlier result. Anything else in its place is an error.
        sync: Flush the files to disk before the rename, for power failures.
        io: ``"buffered"`` reads the inputs through the page cache, ``"direct"`` past it where the
            file system can, and ``"auto"`` past it what is not in it, if they take
            more than half of the memory.
        progress: True for a bar on standard error, False or None for none, or a function that is
            called with the bytes moved so far and the bytes to move in all.

    Returns:
        The report that is also in the ``tallies.json`` of a directory. With ``adapter_rank`` the
        result is an adapter, and the report an ``AdapterReport``.

    Raises:
        InputError: The request or an input is wrong; before anything is written to ``out``.
        StorageError: Reading or writing fails.

    >>> tallies.merge("ties.yml", "merged").experts[0].kept_fraction  # doctest: +SKIP
    0.2000000012
    """
    given = {
        "seed": seed,
        "nonfinite": nonfinite,
        "semantics": semantics,
        "max_shard_size": max_shard_size,
    }
    request, max_bytes = MergeConfig.load(config, Overrides(given)), parse_size(max_memory)

    def run(
        one: MergeConfig,
        place: str | os.PathLike[str],
        n_bytes: int,
        moved: Progress,
        stages: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> MergeReport | AdapterReport:
        return _merge(
            one.pinned(),
            place,
            max_bytes=n_bytes,
            threads=threads,
            device=device,
            max_vram=max_vram,
            resume=resume,
            overwrite=overwrite,
            sync=sync,
            io=io,
            progress=moved,
            stages=stages or {},
        )

    if not request.stages:
        return run(request, out, max_bytes, progress)
    with staged(
        request,
        out,
        run,
        max_bytes=max_bytes,
        progress=progress,
        resume=resume,
        overwrite=overwrite,
    ) as last:
        return run(last.config, out, last.max_bytes, last.progress, last.reports)


def _merge(
    request: MergeConfig,
    out: str | os.PathLike[str],
    *,
    max_bytes: int,
    threads: int | None,
    device: str,
    max_vram: str | int,
    resume: bool,
    overwrite: bool,
    sync: bool,
    io: str,
    progress: Progress,
    stages: Mapping[str, Mapping[str, Any]],
) -> MergeReport | AdapterReport:
    """Merge a request without stages, or with the reports on those that are merged."""
    bars, start = is_bar(progress), time.perf_counter()
    if request.adapter_rank is not None:
        return merge_adapters(
            request,
            out,
            max_bytes=max_bytes,
            threads=threads,
            overwrite=overwrite,
            sync=sync,
            progress=progress,
        )
    inputs = request.inputs()
    inputs.fetch_opaque(bars=bars)
    made = plan(request)
    limits, on_cpu = accelerate.limits(
        device,
        max_bytes,
        parse_size(max_vram),
        n_threads(threads),
        made.rule,
        len(made.labels),
        io_code(io, made.input_files()),
    )
    check_memory(made, max_bytes, n_threads(threads))
    read = [*made.input_roots(), *made.input_files()]
    destination = Destination(out, read, overwrite, of_weights=True)
    if destination.is_file:
        made = in_one_file(made, destination.path.name)
    destination.check_space(bytes_needed(made))
    if inputs.fetch(bars=bars):
        made = plan(request)
        if destination.is_file:
            made = in_one_file(made, destination.path.name)
    n_openings = 1 + min(made.modifiers.n_surveys, 1)
    allow_open_files(n_openings * len(made.input_files()) + len(made.shards))
    run = MergeRun(made, limits, n_threads(threads), max_bytes, progress)
    run.warnings += filter(None, [on_cpu, too_little(max_bytes, n_threads(threads))])
    check_inputs(made)
    journal = Journal(destination.workspace, run.key())
    if resume:
        destination.refuse_busy()
        journal.refuse_others()
    with destination.writing(resume, sync) as directory:
        result = run.write_tensors(directory, journal)
        place = destination.path
        report = complete(result, directory, place, start, n_threads(threads), stages)
        run.check_unchanged()
    return report
