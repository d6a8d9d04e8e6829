"""Packs a base and its experts into a store."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, TypeVar

from ...checkpoint.destination import Destination
from ...checkpoint.files import stamps
from ...checkpoint.policy import Policy
from ...engine.bar import is_bar, with_progress
from ...engine.environment import in_float_environment
from ...engine.limits import allow_open_files, n_threads, tile_limits, too_little
from ...engine.page_cache import io_code
from ...engine.usage import Progress
from ...errors import InputError
from ...recipe.tensor_keys import chosen
from ...sizes import parse_size
from ...spec.choices import Architecture, Choice, Extra, Missing, Nonfinite
from ..manifest import Manifest
from .plan import Integers, PackPlan
from .report import PackReport
from .run import PackRun

C = TypeVar("C", bound=Choice)

_OTHER_BYTES = 1 << 20


def pack(
    base: str | os.PathLike[str] | None,
    tasks: Mapping[str, str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    codec: str = "tall",
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    nonfinite: str = "error",
    integers: str = "equal",
    missing: Any = None,
    extra: Any = None,
    architecture: str | None = None,
    variant: str | None = None,
    overwrite: bool = False,
    sync: bool = False,
    io: str = "auto",
    progress: Progress = None,
    **parameters: Any,
) -> PackReport:
    """Pack experts of one base into a new directory: a store that ``Store.open`` reads.

    Tensors that no task changed are left to the base. Task vectors are float32, sums run in the
    order of the tasks, and masks are made from the unrounded shared vector. The directory appears
    by a rename when it is complete.

    Args:
        base: The base checkpoint: a path, or a model of the hub such as "org/name". None where
            codec ``lossless`` keeps checkpoints by themselves.
        tasks: Checkpoints of the experts by the names of their tasks.
        out: The directory to create.
        codec: The name of a codec; ``tallies methods`` lists them.
        max_memory: Upper bound for memory, as bytes or as text such as "1GiB".
        threads: The number of threads; by default, all cores.
        nonfinite: "error" refuses NaN and infinite values, "propagate" packs them.
        integers: "equal" refuses integers and booleans that differ from the base's, "base" takes
            the base's.
        missing: "error", or "base" to take the base's tensor for one that an expert lacks; or
            filter rules by name, as in recipes.
        extra: "error", or "drop" to leave out what the base lacks; or filter rules by name.
        architecture: "any" accepts experts whose configuration names another architecture.
        variant: The variant of the weights to read of models that have several, such as "fp16".
        overwrite: Replace a directory that is not empty.
        sync: Flush the files to disk before the directory appears.
        io: How to read the inputs: "buffered", "direct" or "auto", as for ``merge``.
        progress: True for a bar on standard error, False or None for none, or a function that is
            called with the bytes moved so far and the bytes to move in all.
        **parameters: Parameters of the codec.

    Returns:
        The report.

    Raises:
        InputError: The request or an input is wrong; nothing was written then.
        StorageError: Reading or writing fails.

    >>> tallies.pack("base", {"math": "a", "code": "b"}, "store")  # doctest: +SKIP
    """
    return _pack(
        base,
        tasks,
        out,
        None,
        codec=codec,
        max_memory=max_memory,
        threads=threads,
        nonfinite=nonfinite,
        integers=integers,
        missing=missing,
        extra=extra,
        architecture=architecture,
        variant=variant,
        overwrite=overwrite,
        sync=sync,
        io=io,
        progress=progress,
        **parameters,
    )


def pack_again(
    before: Manifest,
    base: str | os.PathLike[str],
    tasks: Mapping[str, str | os.PathLike[str]],
    store: str | os.PathLike[str],
    **options: Any,
) -> PackReport:
    """Replace a store by one of other tasks, from the models that it was packed from.

    Args:
        before: The manifest of the store.
        base: The store's base.
        tasks: Checkpoints of the experts by the names of their tasks.
        store: The directory of the store.
        **options: Options of ``pack`` other than the codec, and parameters of the codec.

    Returns:
        The report.

    Raises:
        InputError: The request or an input is wrong, or a model of the store is another one by now.
        StorageError: Reading or writing fails.
    """
    options.setdefault("variant", before.variant)
    return _pack(base, tasks, store, before, codec=before.codec, overwrite=True, **options)


@with_progress("pack")
@in_float_environment
def _pack(
    base: str | os.PathLike[str] | None,
    tasks: Mapping[str, str | os.PathLike[str]],
    out: str | os.PathLike[str],
    before: Manifest | None,
    *,
    codec: str,
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    nonfinite: str = "error",
    integers: str = "equal",
    missing: Any = None,
    extra: Any = None,
    architecture: str | None = None,
    variant: str | None = None,
    overwrite: bool,
    sync: bool = False,
    io: str = "auto",
    progress: Progress | None = None,
    **parameters: Any,
) -> PackReport:
    start = time.perf_counter()
    differing = Policy(
        missing=chosen("missing", missing, Missing), extra=chosen("extra", extra, Extra)
    )
    plan = PackPlan.make(
        base,
        tasks,
        codec,
        parameters,
        _chosen("integers", integers, (*Integers,)),
        differing,
        variant,
        any_architecture=_chosen(
            "architecture", architecture or Architecture.SAME, (*Architecture,)
        )
        is Architecture.ANY,
        bars=is_bar(progress),
    )
    max_bytes = parse_size(max_memory)
    limits = tile_limits(max_bytes, n_threads(threads), io_code(io, plan.input_files()))
    plan.family.check_request([plan.base.tensors[n] for n in plan.coded], max_bytes)
    policy = _chosen("nonfinite", nonfinite, (Nonfinite.ERROR, Nonfinite.PROPAGATE))
    destination = Destination(out, plan.roots(), overwrite)
    n_small_bytes = sum(size for size, _ in stamps(plan.small_files()).values())
    destination.check_space(plan.layout.n_bytes + n_small_bytes + _OTHER_BYTES)
    allow_open_files(len(plan.input_files()) + len(plan.task_files) + 1)
    run = PackRun(
        plan, destination.path, limits, progress, refuse_nonfinite=policy is Nonfinite.ERROR
    )
    with destination.writing(resume=False, sync=sync) as directory:
        manifest = run.write(directory)
        run.check_unchanged()
        if before is not None:
            _refuse_others(before, manifest, plan)
        manifest.write(directory)
        run.finish_progress()
    report = run.record.report(destination.path, manifest, start, limits)
    report.warnings.extend(filter(None, [too_little(max_bytes, limits.n_threads)]))
    return report


def _refuse_others(before: Manifest, after: Manifest, plan: PackPlan) -> None:
    """Raise InputError if a model is not the one that the store was packed from."""
    if after.base_fingerprint != before.base_fingerprint:
        raise InputError(
            f"{plan.texts['']}: is not the store's base: its fingerprint is "
            f"{after.base_fingerprint}, expected {before.base_fingerprint}; name the base that it "
            "was packed from (base=, --base)"
        )
    for name, task in before.tasks.items():
        if name in after.tasks and after.tasks[name].fingerprint != task.fingerprint:
            raise InputError(
                f"{plan.texts[name]}: is not the expert that task {name!r} was packed from: "
                f"its fingerprint is {after.tasks[name].fingerprint}, expected {task.fingerprint}; "
                f"say where that is (--task {name}=DIR; in Python, tasks=), or pack all anew"
            )


def _chosen(name: str, value: str, choices: tuple[C, ...]) -> C:
    """Return the choice that a text names; InputError for any other."""
    for choice in choices:
        if choice == value:
            return choice
    raise InputError(f"{name}: found {value!r}, expected {' or '.join(map(repr, choices))}")
