"""Merges adapters to an adapter: plan, factors, files, report."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .._core import narrow
from ..checkpoint.cards import NAME as CARD_NAME
from ..checkpoint.cards import RECIPE_NAME
from ..checkpoint.changes import pieces
from ..checkpoint.destination import Destination
from ..checkpoint.files import refuse_changed, stamps
from ..checkpoint.occupied import REPORT_NAME
from ..engine.arrays import address_of
from ..engine.limits import n_threads
from ..engine.usage import Advance, Progress, measure
from ..errors import InputError
from ..linalg import spectral
from ..linalg.threads import Workers, results, single_threads
from ..merging.recipe_file import recipe_text
from ..messages import counted, some
from ..recipe.config import MergeConfig
from ..spec.choices import Nonfinite
from ..spec.dtypes import DTYPE_CODES, DTYPES
from .adapter_card import card_text
from .adapter_checks import base_text
from .adapter_explain import way
from .adapter_plan import AdapterPlan, plan_adapters
from .adapter_report import AdapterModel, AdapterReport
from .combination import combine, concatenated, rounded, stored_error
from .factor_methods import merge_factors
from .matrix_report import MatrixReport
from .operands import Factors, factors_of, rank_of, read_values
from .products import merge_products
from .targets import Kept, Target
from .writer import AdapterWriter

if TYPE_CHECKING:
    import numpy as np

_OTHER_BYTES = 1 << 20
_SCRATCH = ".products"


def merge_adapters(
    config: MergeConfig,
    out: str | os.PathLike[str],
    *,
    max_bytes: int,
    threads: int | None,
    overwrite: bool,
    sync: bool,
    progress: Progress,
) -> AdapterReport:
    """Merge adapters on disk into a new adapter for PEFT.

    Args:
        config: A request with an ``adapter_rank``, and with the commits of models of the hub.
        out: The directory to create.
        max_bytes: Upper bound for the memory of matrices in hand.
        threads: Number of threads; None for all cores.
        overwrite: Replace an earlier result.
        sync: Flush the files to disk before the directory appears.
        progress: Is called with the bytes moved so far and in all.

    Returns:
        The report that is also in the directory's ``tallies.json``.

    Raises:
        InputError: The request or an adapter is wrong.
        StorageError: Reading or writing fails.
    """
    start = time.perf_counter()
    spectral.require("adapter_rank")
    made = plan_adapters(config)
    if os.fspath(out).endswith(".safetensors"):
        raise InputError(
            f"output {os.fspath(out)!r}: is the name of a file, and an adapter is a directory: "
            "adapter_config.json lies beside its weights; name a directory"
        )
    destination = Destination(out, [*made.roots, *made.files], overwrite)
    destination.check_space(2 * made.most_bytes_written + _OTHER_BYTES)
    before = stamps(made.files)
    n_workers = n_threads(threads)
    advance = Advance(progress, made.bytes_read)
    base, extra = base_text(made, destination.path)
    with destination.writing(resume=False, sync=sync) as directory:
        task_type = made.operands[0].adapter.config.get("task_type")
        writer = AdapterWriter(
            directory,
            dtype=made.dtype,
            base=base,
            extra={"task_type": task_type, **extra},
        )
        warnings = list(made.warnings)
        if made.is_sum or made.of_factors:
            matrices = list(_write_factors(made, writer, n_workers, advance))
        else:
            scratch = directory / _SCRATCH
            facts, more = merge_products(
                made,
                writer,
                scratch,
                max_bytes=max_bytes,
                n_workers=n_workers,
                progress=advance if advance else None,
            )
            scratch.unlink(missing_ok=True)
            warnings += more
            matrices = [
                MatrixReport(one.name, list(one.shape), own.rank, own.norm, own.error)
                for one, own in zip(made.targets.values(), facts, strict=True)
            ]
        warnings += _nonfinite_warnings(made, matrices)
        _write_saved(made, writer)
        files = writer.finish()
        refuse_changed(before)
        recipe = made.config.relative_to(destination.path)
        report = AdapterReport(
            path=str(destination.path),
            recipe=recipe.to_json_dict(),
            method=config.merge_method,
            semantics=config.semantics,
            base=base,
            adapters=list(_models(made, destination.path)),
            rank=config.adapter_rank or "full",
            exact=made.is_sum and all(one.error < 1e-6 for one in matrices),
            way=way(made),
            dtype=made.dtype,
            matrices=matrices,
            saved=made.saved,
            parameters=made.shared_parameters(),
            files=files,
            other_files=[CARD_NAME, RECIPE_NAME] if config.card else [],
            warnings=warnings,
            **measure(start, made.bytes_read, sum(files.values()), n_workers),
        )
        if config.card:
            card = card_text(made, report, destination.path.name, recipe)
            (directory / CARD_NAME).write_text(card, encoding="utf-8")
            (directory / RECIPE_NAME).write_text(recipe_text(recipe), encoding="utf-8")
        (directory / REPORT_NAME).write_text(report.to_json(), encoding="utf-8")
    advance.finish()
    return report


def _nonfinite_warnings(made: AdapterPlan, matrices: list[MatrixReport]) -> Iterator[str]:
    """Yield a warning about tensors that are not finite, where these are to be warned of."""
    found = [one.name for one in matrices if not math.isfinite(one.norm)]
    if found and made.config.nonfinite is Nonfinite.WARN:
        yield f"{counted(len(found), 'tensor')} of the result are not finite: {some(found)}"


def _models(made: AdapterPlan, out: Path) -> Iterator[AdapterModel]:
    for number, (name, one) in enumerate(zip(made.names, made.operands, strict=True)):
        ranks = [rank_of(changes) for changes in one.changes.values()] or [0]
        yield AdapterModel(
            path=made.config.places.relative_to(out, name),
            kind=one.adapter.kind,
            rank=[min(ranks), max(ranks)],
            tensors=len(one.changes),
            base=one.adapter.base,
            parameters=made.own_parameters(number),
        )


def _write_factors(
    made: AdapterPlan, writer: AdapterWriter, n_workers: int, advance: Advance
) -> Iterator[MatrixReport]:
    """Write the factors of every tensor, and yield what there is to report."""

    def work(target: Target, pool: Workers) -> MatrixReport:
        with pool.undisturbed():
            exact = _merged_factors(made, target)
        found = combine(exact, made.rank(target.name))
        stored = rounded(found, made.dtype)
        error = stored_error(exact, stored, found.norm)
        with pool.undisturbed():
            writer.add(target, *stored)
        return MatrixReport(target.name, list(target.shape), found.rank, found.norm, error)

    with single_threads(n_workers) as pool:
        found = results([pool.submit(work, one, pool) for one in made.targets.values()])
        for one, result in zip(made.targets, found, strict=True):
            yield result
            advance(
                sum(
                    piece.n_bytes
                    for operand in made.operands
                    for change in operand.changes.get(one, ())
                    for piece in pieces(change)
                )
            )


def _merged_factors(made: AdapterPlan, target: Target) -> Factors:
    """Return the factors that the method makes of those of all adapters."""
    if not made.of_factors:
        return sum_of_products(made, target.name)
    finite = made.config.nonfinite is Nonfinite.ERROR
    own = [
        concatenated([(1.0, one) for one in factors_of(changes, finite=finite)])
        for operand in made.operands
        if (changes := operand.changes.get(target.name))
    ]
    left, right = merge_factors(made.config.merge_method, target, own, made.parameters[target.name])
    return left * made.factors[target.name], right


def sum_of_products(made: AdapterPlan, name: str) -> Factors:
    """Return the factors of the weighted sum of all products of a tensor."""
    finite = made.config.nonfinite is Nonfinite.ERROR
    terms = [
        (weight, factors)
        for weight, one in zip(made.coefficients(name), made.operands, strict=True)
        for factors in factors_of(one.changes.get(name, ()), finite=finite)
    ]
    return concatenated(terms)


def _write_saved(made: AdapterPlan, writer: AdapterWriter) -> None:
    """Write the means of the tensors that all adapters hold whole."""
    import numpy as np

    for name in made.saved:
        infos = [one.whole[name] for one in made.operands]
        total: np.ndarray = np.zeros(infos[0].shape, np.float64)
        for weight, info in zip(made.coefficients(name), infos, strict=True):
            total += weight * read_values(info, finite=made.config.nonfinite is Nonfinite.ERROR)
        dtype = made.config.output_dtype or infos[0].dtype
        floats = np.ascontiguousarray(total, np.float32)
        data = bytearray(floats.size * DTYPES[dtype])
        narrow(floats.ctypes.data, address_of(data), DTYPE_CODES[dtype], floats.size)
        writer.keep(Kept(name, dtype, infos[0].shape), [data])
