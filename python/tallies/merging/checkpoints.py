"""``merge``: recipe -> match -> plan -> passes -> report."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from ..checkpoint.destination import Destination
from ..checkpoint.files import auxiliary_sizes, copy_auxiliary
from ..engine import device as accelerate
from ..engine.environment import in_float_environment
from ..engine.limits import allow_open_files, check_rows, n_threads
from ..engine.matrices import refuse_too_large
from ..engine.usage import Progress
from ..recipe.config import MergeConfig
from ..sizes import parse_size
from .checks import check_inputs
from .journal import Journal
from .plan import plan
from .report import MergeReport
from .run import MergeRun

REPORT_NAME = "tallies.json"

# Beside the tensors: room for index, report and journal, and what blocks round up.
_OTHER_BYTES = 1 << 20
_OTHER_BYTES_A_TENSOR = 1 << 12


@in_float_environment
def merge(
    config: str | os.PathLike[str] | Mapping[str, Any] | MergeConfig,
    out: str | os.PathLike[str],
    *,
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    device: str = "cpu",
    max_vram: str | int = "4GiB",
    max_shard_size: str | int = "5GB",
    seed: int = 0,
    nonfinite: str = "error",
    semantics: str = "paper",
    resume: bool = False,
    overwrite: bool = False,
    sync: bool = False,
    progress: Progress | None = None,
) -> MergeReport:
    """Merge checkpoints on disk into the new directory ``out``, tile by tile in bounded memory.

    ``config`` is a recipe file, a dict, a MergeConfig, or the ``tallies.json`` of an earlier merge,
    which repeats it. ``max_memory`` bounds the buffers, whatever the sizes and number of models;
    ``threads`` is None for all cores. ``device="cuda"`` merges the tiles on the first CUDA device,
    in buffers of at most ``max_vram`` there, or on the processor where there is none, the method
    has no kernel for it or the way there is too slow; the report's warnings then say so. None of
    these changes a byte of the result. ``max_shard_size``,
    ``seed``, ``nonfinite`` ("error", "warn" or "propagate" infinite and NaN values) and
    ``semantics`` replace what the recipe says unless left at their defaults.

    Inputs are widened to float32, sums run in float32 in the order of the experts, and each result
    is rounded once, to nearest even. ``out`` appears by a rename when it is complete. A run that
    failed or was killed leaves nothing in its place; with ``resume`` it keeps its finished files
    for the next run with ``resume``. ``sync`` flushes the files to disk first, for power failures.

    Raises InputError when the request or an input is wrong, before anything is written to ``out``;
    StorageError when reading or writing fails.

    >>> tallies.merge("ties.yml", "merged").experts[0].kept_fraction  # doctest: +SKIP
    0.2000000012
    """
    request = MergeConfig.load(config).replace(
        seed=seed or None,
        nonfinite=None if nonfinite == "error" else nonfinite,
        semantics=None if semantics == "paper" else semantics,
        max_shard_size=None if max_shard_size == "5GB" else max_shard_size,
    )
    start = time.perf_counter()
    made = plan(request)
    limits, on_cpu = accelerate.limits(
        device, max_memory, max_vram, n_threads(threads), made.rule, len(made.labels)
    )
    refuse_too_large(
        request.method,
        (
            (name, made.template.tensors[name].shape, made.parameters[name])
            for name in made.parameters
        ),
        len(made.experts),
        request.semantics,
        parse_size(max_memory),
    )
    if (rows := made.row_bytes) is not None:
        check_rows(*rows, max_memory, n_threads(threads))
    destination = Destination(out, [*made.input_roots(), *made.input_files()], overwrite)
    auxiliary = auxiliary_sizes(made.donor)
    others = _OTHER_BYTES + _OTHER_BYTES_A_TENSOR * len(made.template.tensors)
    destination.check_space(made.bytes_written + sum(auxiliary.values()) + others)
    n_openings = 1 + min(made.modifiers.n_surveys, 1)
    allow_open_files(n_openings * len(made.input_files()) + len(made.shards))
    run = MergeRun(made, limits, n_threads(threads), parse_size(max_memory), progress)
    run.warnings += [on_cpu] if on_cpu else []
    check_inputs(made)
    with destination.writing(resume, sync) as directory:
        journal = Journal(destination.workspace, run.key())
        result = run.write_tensors(directory, journal)
        for path in auxiliary:
            copy_auxiliary(made.donor, path, directory)
        report = result.report(destination.path, [*auxiliary], start, n_threads(threads))
        run.check_unchanged()
        (directory / REPORT_NAME).write_text(report.to_json(), encoding="utf-8")
    return report
