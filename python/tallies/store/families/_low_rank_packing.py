"""Factors the matrices of a packing, on one thread: the bits do not depend on their number.

torch is needed here alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..._core import Plan, narrow, read_delta, widen
from ...engine.arrays import address_of
from ...engine.files import native
from ...engine.fingerprints import content_of
from ...errors import InputError
from ...linalg import spectral
from ...linalg.threads import single_threads
from ...spec.dtypes import DTYPE_CODES, DTYPES
from ..manifest import SHARED
from ._low_rank_layout import part_names
from .job import PackJob

if TYPE_CHECKING:
    import torch


def peak_bytes(shape: Sequence[int]) -> int:
    """Return the bytes of memory that factoring a matrix takes."""
    m, n = max(shape), min(shape)
    return 4 * 7 * m * n + 8 * 8 * n * n + (1 << 26)


def pack_triplets(job: PackJob, scale: float | None) -> list[int]:
    """Write the triplets of every matrix and task, and the shared vector where there is a scale.

    Args:
        job: The packing.
        scale: The factor on the sum of all task vectors that makes the shared vector; None where
            nothing is shared.

    Returns:
        The number of values in each file.

    Raises:
        InputError: A value is not finite.
        StorageError: Reading or writing fails.
    """
    files = job.plan_files
    for sources in job.tensors.values():
        files.plan.add_job(
            sources[0].n_elements, [native(files.operand(one)) for one in sources], []
        )
    n_values = [0] * len(job.files)
    with single_threads(1) as pool:
        for i, (name, sources) in enumerate(job.tensors.items()):
            try:
                factored = pool.submit(_factor, job, files.plan, i, name, scale).result()
            except _NotFinite:
                raise InputError(job.objection(files.plan, i, name)) from None
            if factored.shared is not None:
                job.write(SHARED, name, factored.shared, content_of(factored.shared))
            for task, (file, parts) in enumerate(zip(job.files, factored.factors, strict=True)):
                for part, data in zip(part_names(name), parts, strict=True):
                    job.write(file, part, data, content_of(data))
                    n_values[task] += job.places[file][part].n_elements
            job.record.note_read(name, sources, factored.prints)
    return n_values


class _NotFinite(Exception):
    """A task vector or the shared vector has a NaN or infinity."""


@dataclass(frozen=True)
class _Factored:
    """One matrix of all tasks, as bytes to store."""

    shared: bytes | None
    factors: list[tuple[bytes, bytes, bytes]]
    """U, s and V^T of each task."""
    prints: list[list[int]]
    """Content fingerprints of the inputs, the base first."""


def _factor(job: PackJob, plan: Plan, index: int, name: str, scale: float | None) -> _Factored:
    """Read a matrix of the base and all tasks, and factor what each task has of its own.

    Stored values are rounded once. A matrix of a task that is not finite raises ``_NotFinite``, or
    gets singular values of NaN.
    """
    import torch

    shape = job.tensors[name][0].shape
    n_tasks = len(job.tasks)
    prints: list[list[int]] = [[] for _ in range(n_tasks + 1)]

    def read(task: int, *, counted: bool) -> torch.Tensor:
        delta = torch.empty(*shape)
        progress = job.progress if counted else None
        (base, own), nonfinite = read_delta(
            plan=plan,
            job=index,
            expert=task,
            out=delta.data_ptr(),
            limits=job.limits,
            progress=progress,
        )
        if nonfinite and job.refuse_nonfinite:
            raise _NotFinite
        prints[0], prints[task + 1] = base, own
        return delta

    shared = None
    if scale is not None:
        total = read(0, counted=False)
        for task in range(1, n_tasks):
            total += read(task, counted=False)
        total *= scale
        dtype = job.places[SHARED][name].dtype
        shared = _narrowed(total, dtype)
        # The tasks' own parts are differences to the vector as it is stored.
        stored = bytearray(shared)
        widen(address_of(stored), DTYPE_CODES[dtype], total.data_ptr(), total.numel())
        if job.refuse_nonfinite and not bool(total.isfinite().all()):
            raise _NotFinite
    place = job.places[job.files[0]][name]
    factors = []
    for task in range(n_tasks):
        own = read(task, counted=True)
        if scale is not None:
            own -= total
        u, s, v = _triplets(own, place.shape[1])
        factors.append((_narrowed(u, place.dtype), _narrowed(s, "F32"), _narrowed(v, place.dtype)))
    return _Factored(shared, factors, prints)


def _triplets(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U, s and V^T of ``rank`` triplets; s is NaN where the matrix is not finite."""
    import torch

    m, n = matrix.shape
    parts = torch.zeros(m, rank), torch.zeros(rank), torch.zeros(rank, n)
    if bool(matrix.isfinite().all()):
        u, s, v = spectral.thin_svd(matrix, rank)
        parts[0][:, : len(s)], parts[1][: len(s)], parts[2][: len(s)] = u, s, v
    else:
        parts[1][:] = torch.nan
    return parts


def _narrowed(values: torch.Tensor, dtype: str) -> bytes:
    """Return float32 values rounded to a dtype."""
    data = bytearray(values.numel() * DTYPES[dtype])
    narrow(values.data_ptr(), address_of(data), DTYPE_CODES[dtype], values.numel())
    return bytes(data)
