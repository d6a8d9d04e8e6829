"""``pack``: a base and its experts -> a store."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from ...checkpoint.destination import Destination
from ...engine.environment import in_float_environment
from ...engine.limits import allow_open_files, n_threads, tile_limits
from ...engine.usage import Progress
from ...errors import InputError
from ...sizes import parse_size
from .plan import PackPlan
from .report import PackReport
from .run import PackRun

_OTHER_BYTES = 1 << 20


@in_float_environment
def pack(
    base: str | os.PathLike[str],
    tasks: Mapping[str, str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    codec: str = "tall",
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    nonfinite: str = "error",
    integers: str = "equal",
    overwrite: bool = False,
    sync: bool = False,
    progress: Progress | None = None,
    **parameters: Any,
) -> PackReport:
    """Pack experts of one base into the new directory ``out``: a store that ``Store.open`` reads.

    ``tasks`` maps names to checkpoints; ``parameters`` are the codec's (``tallies methods`` shows
    them). Tensors that no task changed are left to the base.
    Task vectors are float32, sums run in the order of the tasks, masks are made from the unrounded
    shared vector. NaN and infinite values are refused unless ``nonfinite`` is "propagate";
    integers and booleans must be the base's unless ``integers`` is "base".

    Raises InputError when the request or an input is wrong, before anything is written;
    StorageError when reading or writing fails. ``out`` appears by a rename when it is complete.

    >>> tallies.pack("base", {"math": "a", "code": "b"}, "store")  # doctest: +SKIP
    """
    start = time.perf_counter()
    made = PackPlan.make(base, tasks, codec, parameters, integers)
    limits = tile_limits(max_memory, n_threads(threads))
    made.family.check_request([made.base.tensors[n] for n in made.coded], parse_size(max_memory))
    if nonfinite not in ("error", "propagate"):
        raise InputError(f"nonfinite: found {nonfinite!r}, expected 'error' or 'propagate'")
    destination = Destination(out, made.roots(), overwrite)
    destination.check_space(made.layout.n_bytes + _OTHER_BYTES)
    allow_open_files(len(made.input_files()) + len(made.masks) + 1)
    run = PackRun(made, limits, progress, refuse_nonfinite=nonfinite == "error")
    with destination.writing(resume=False, sync=sync) as directory:
        manifest = run.write(directory)
        run.check_unchanged()
        manifest.write(directory)
        run.finish_progress()
    return run.record.report(
        destination.path, manifest, time.perf_counter() - start, n_threads(threads)
    )
