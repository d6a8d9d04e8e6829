"""``extract_lora``: a fine-tune and its base -> an adapter."""

from __future__ import annotations

import math
import os
import time
from typing import Any, Final

from ..checkpoint.destination import Destination
from ..checkpoint.files import refuse_changed, stamps
from ..checkpoint.occupied import REPORT_NAME
from ..engine.bar import is_bar, with_progress
from ..engine.environment import in_float_environment
from ..engine.limits import allow_open_files, n_threads
from ..engine.usage import Advance, Progress, measure
from ..errors import InputError
from ..linalg import spectral
from ..messages import show
from ..sizes import parse_size
from ..spec.dtypes import named
from .extraction import Extraction
from .extraction_plan import ExtractionPlan, Inclusion
from .factoring import Request
from .report import LoraReport

_FACTOR_DTYPES: Final = ("F32", "BF16", "F16")
_OTHER_BYTES: Final = 1 << 20


@with_progress("extract")
@in_float_environment
def extract_lora(
    finetuned: str | os.PathLike[str],
    base: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    rank: int | float,
    max_rank: int | None = None,
    alpha: float | None = None,
    target: str | None = None,
    save_modules: bool = False,
    dtype: str | None = None,
    seed: int = 0,
    max_memory: str | int = "1GiB",
    threads: int | None = None,
    missing: Any = None,
    extra: Any = None,
    architecture: str | None = None,
    variant: str | None = None,
    overwrite: bool = False,
    sync: bool = False,
    progress: Progress = None,
) -> LoraReport:
    """Write the adapter of a rank that comes nearest to a fine-tune, for PEFT to load.

    Each weight's difference from the base becomes the product of two matrices, by a randomised
    singular value decomposition. The report has the relative error of every matrix. Threads and
    memory change no byte of the result.

    Args:
        finetuned: The fine-tuned model, on disk or on the hub.
        base: The model that it was tuned from.
        out: The directory to create.
        rank: The rank, or as a float up to 1.0 the share of each matrix's energy (the sum of its
            squares) to keep: then ranks differ.
        max_rank: Upper bound for the ranks that the energy asks for.
        alpha: The ``lora_alpha`` to state; by default the rank. The product is the same.
        target: A regular expression that finds a part of the names of the tensors to factor; by
            default all weights of linear layers, convolutions and experts.
        save_modules: Keep embeddings, norms, biases and other changed tensors that are no such
            matrices whole, as ``modules_to_save``; by default they stay the base's.
        dtype: The type of the factors: "float32", "bfloat16" or "float16"; by default the base's
            where that is one of these.
        seed: The seed of the random start.
        max_memory: Upper bound for memory, as bytes or as text such as "1GiB".
        threads: The number of threads; by default, all cores.
        missing: "error", or "base" to accept that the fine-tune lacks tensors; or filter rules.
        extra: "error", or "drop" to leave out what the base lacks; or filter rules.
        architecture: "any" accepts a fine-tune whose configuration names another architecture.
        variant: The variant of the weights to read of models that have several, such as "fp16".
        overwrite: Replace an earlier result.
        sync: Flush the files to disk before the directory appears.
        progress: True for a bar on standard error, False or None for none, or a function that is
            called with the bytes moved so far and the bytes to move in all.

    Returns:
        The report that is also in the directory's ``tallies.json``.

    Raises:
        InputError: The request or an input is wrong, or no matrix differs.
        StorageError: Reading or writing fails.

    >>> tallies.extract_lora("tuned", "base", "adapter", rank=32).error  # doctest: +SKIP
    0.41
    """
    start = time.perf_counter()
    spectral.require("extract-lora")
    request = _request(rank, max_rank, alpha, seed)
    max_bytes, n_workers = parse_size(max_memory), n_threads(threads)
    inclusion = Inclusion(target, save_modules, missing, extra, architecture, variant)
    plan = ExtractionPlan.make(
        os.fspath(finetuned), os.fspath(base), request, inclusion, bars=is_bar(progress)
    )
    plan = plan.with_dtype(_dtype(dtype, plan))
    plan.check_memory(max_bytes)
    destination = Destination(out, plan.roots(), overwrite)
    destination.check_space(plan.most_bytes() + _OTHER_BYTES)
    allow_open_files(len(plan.files()))
    before = stamps(plan.files())
    advance = Advance(progress, plan.bytes_read)
    with destination.writing(resume=False, sync=sync) as directory:
        run = Extraction(plan, destination.path, n_workers, max_bytes, advance)
        made = run.write(directory)
        refuse_changed(before)
        n_written = sum(made.files.values())
        report = LoraReport(
            **made.facts(),
            **measure(start, plan.bytes_read, n_written, n_workers),
        )
        (directory / REPORT_NAME).write_text(report.to_json(), encoding="utf-8")
    advance.finish()
    return report


def _request(rank: int | float, max_rank: int | None, alpha: float | None, seed: int) -> Request:
    if isinstance(rank, bool) or not isinstance(rank, (int, float)):
        wrong = True
    elif isinstance(rank, float):
        wrong = not 0 < rank <= 1
    else:
        wrong = rank < 1
    if wrong:
        raise InputError(
            f"rank: found {show(rank)}, expected a number from 1 up, such as 32, or the share of "
            "the energy to keep, such as 0.95"
        )
    if max_rank is not None and (type(max_rank) is not int or max_rank < 1):
        raise InputError(f"max_rank: found {show(max_rank)}, expected a number from 1 up")
    if max_rank is not None and not isinstance(rank, float):
        raise InputError(
            f"max_rank: found {max_rank} beside rank {rank}; it bounds the ranks that a share of "
            "the energy asks for: leave it out, or say rank 0.95"
        )
    if alpha is not None and not (math.isfinite(alpha) and alpha > 0):
        raise InputError(f"alpha: found {show(alpha)}, expected a number above 0")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise InputError(f"seed: found {show(seed)}, expected a number from 0 to 2**64 - 1")
    return Request(rank, max_rank, None if alpha is None else float(alpha), "F32", seed)


def _dtype(text: str | None, plan: ExtractionPlan) -> str:
    if text is None:
        return plan.usual_dtype()
    found = named(text)
    if found not in _FACTOR_DTYPES:
        raise InputError(f"dtype: found {show(text)}, expected float32, bfloat16 or float16")
    return found
