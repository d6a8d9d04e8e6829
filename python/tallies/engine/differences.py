"""Compares stored tensors two by two, in one read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from .._core import CompareTask, Differences, Limits, Plan
from ..checkpoint.tensors import TensorInfo
from ..spec.dtypes import FLOATS
from .files import PlanFiles, native

_AS_FLOATS: Final = 0
_AS_SIGNED: Final = 1
_AS_UNSIGNED: Final = 2


def can_compare(a: TensorInfo, b: TensorInfo) -> bool:
    """Return True for tensors of one shape whose values can be set against each other."""
    both_floats = {a.dtype, b.dtype} <= FLOATS
    return a.shape == b.shape and (both_floats or a.dtype == b.dtype)


def differences(
    pairs: Sequence[tuple[TensorInfo, TensorInfo]],
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> list[Differences]:
    """Find what the tensors of each pair differ in.

    Args:
        pairs: Tensors for which ``can_compare`` holds.
        limits: Threads and buffers of the pass, which reads each tensor once.
        progress: Is called with the bytes moved since the last call.

    Returns:
        The findings of each pair, in their order. Floats differ by their stored bits, or by their
        values in float32 where these are decoded or the dtypes are two; integers by their bits.
        Nothing but the number of stored units that differ has a meaning for opaque types.

    Raises:
        StorageError: A file cannot be read.
    """
    files = PlanFiles(Plan(False))
    tasks = []
    for job, pair in enumerate(pairs):
        if pair[0].dtype in FLOATS:
            elements, places = _AS_FLOATS, [native(files.operand(one)) for one in pair]
        else:
            elements = _AS_SIGNED if pair[0].dtype.startswith("I") else _AS_UNSIGNED
            places = [files.bits_place(one) for one in pair]
        files.plan.add_job(pair[0].n_stored, places, [])
        tasks.append(CompareTask(job=job, elements=elements))
    return files.plan.compare(tasks=tasks, limits=limits, progress=progress)
