"""The matrices of low-rank codecs: factored when they are packed, multiplied out when restored.

Neither depends on the number of threads. Restoring goes through the native combine, whose experts
are the rows of V^T and whose weights a row of U diag(s): float32, the same bits on every processor.
torch is needed for packing alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..._core import Limits, Plan, combine, narrow, read_delta, widen
from ...checkpoint.data import read_rows
from ...checkpoint.safetensors import TensorInfo
from ...engine.codes import BLEND_CODES, GATE_CODES, KEEP_ALL, MAX_EXPERTS, VOTE_CODES
from ...engine.files import Inputs, Place
from ...engine.fingerprints import add_content, content_of
from ...errors import InputError
from ...linalg import spectral
from ...linalg.threads import single_threads
from ...spec.dtypes import DTYPE_CODES, DTYPES
from ...spec.rules import Blend, Gate, Vote
from ..codecs._low_rank import s_name, v_name
from ..manifest import SHARED, Manifest
from ..packing.run import PackRun
from . import low_rank as low_rank_files

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

_SUM = (GATE_CODES[Gate.ALL], VOTE_CODES[Vote.NONE], BLEND_CODES[Blend.SUM])
_F32 = DTYPE_CODES["F32"]

# Elements of the rows that are restored together. Blocks begin at multiples of 64 rows, which are
# stripes of the fingerprint whatever the row is long.
_BLOCK = 1 << 20


def n_bytes(shape: Sequence[int]) -> int:
    """Memory that factoring a matrix takes."""
    m, n = max(shape), min(shape)
    return 4 * 7 * m * n + 8 * 8 * n * n + (1 << 26)


def refuse_too_large(
    name: str, tensors: Mapping[str, TensorInfo], names: Sequence[str], max_bytes: int
) -> None:
    """Raise InputError if a matrix does not fit into the budget, or torch is not there."""
    spectral.require(name)
    for one in names:
        needed = n_bytes(tensors[one].shape)
        if needed > max_bytes:
            raise InputError(
                f"{name}: tensor {one!r} {list(tensors[one].shape)} is factored as a whole, which "
                f"takes {-(-needed >> 20)} MiB, and max_memory allows {max_bytes >> 20} MiB; raise "
                "--max-memory, or keep it as it is: --param exclude=NAME"
            )


@dataclass(frozen=True)
class Factored:
    """One matrix of all tasks, as bytes to store."""

    shared: bytes | None
    factors: list[tuple[bytes, bytes, bytes]]
    """U, s and V^T of each task."""
    prints: list[list[int]]
    """Content fingerprints of what was read, the base first."""


def factor(
    core: Plan,
    job: int,
    shape: Sequence[int],
    n_tasks: int,
    rank: int,
    dtype: str,
    scale: float | None,
    shared_dtype: str,
    refuse_nonfinite: bool,
    limits: Limits,
    progress: Callable[[int], object] | None,
) -> Factored:
    """Read a matrix of the base and all tasks, and factor what each task has beside what is shared.

    Without ``scale`` nothing is shared. What is stored is rounded once. What is not finite is a
    ValueError, or makes all singular values of the task's matrix NaN.
    """
    import torch

    def read(task: int, progress: Callable[[int], object] | None) -> torch.Tensor:
        delta = torch.empty(*shape)
        (base, own), nonfinite = read_delta(core, job, task, delta.data_ptr(), limits, progress)
        if nonfinite and refuse_nonfinite:
            raise ValueError
        prints[0], prints[task + 1] = base, own
        return delta

    prints: list[list[int]] = [[] for _ in range(n_tasks + 1)]
    shared = None
    if scale is not None:
        total = read(0, None)
        for task in range(1, n_tasks):
            total += read(task, None)
        total *= scale
        shared = _narrowed(total.data_ptr(), total.numel(), shared_dtype)
        stored = bytearray(shared)
        widen(_address(stored), DTYPE_CODES[shared_dtype], total.data_ptr(), total.numel())
        if refuse_nonfinite and not bool(total.isfinite().all()):
            raise ValueError
    factors = []
    for task in range(n_tasks):
        own = read(task, progress)
        if scale is not None:
            own -= total
        parts = torch.zeros(shape[0], rank), torch.zeros(rank), torch.zeros(rank, shape[1])
        if bool(own.isfinite().all()):
            u, s, v = spectral.thin_svd(own, rank)
            parts[0][:, : len(s)], parts[1][: len(s)], parts[2][: len(s)] = u, s, v
        else:
            parts[1][:] = torch.nan
        first, second, third = (
            _narrowed(part.data_ptr(), part.numel(), kind)
            for part, kind in zip(parts, (dtype, "F32", dtype), strict=True)
        )
        factors.append((first, second, third))
    return Factored(shared, factors, prints)


def restore(
    core: Plan,
    base: TensorInfo,
    shared: TensorInfo | None,
    stored: Mapping[str, TensorInfo],
    places: Sequence[Place],
    n_threads: int,
    progress: Callable[[int], object] | None = None,
) -> tuple[list[tuple[TensorInfo, list[int]]], list[int]]:
    """Write base + shared + U diag(s) V^T of one matrix to ``places``, in the dtype of the base.

    Returns the content fingerprints of what was read and of what was written.
    """
    rows, columns = base.shape
    left, s, right = (stored[name] for name in (base.name, s_name(base.name), v_name(base.name)))
    (sizes, s_print), (vectors, v_print) = _read(s, 0, 1), _read(right, 0, right.shape[0])
    starts = [vectors.ctypes.data + 4 * columns * i for i in range(len(vectors))]
    whole = [one for one in (base, shared, left) if one is not None]
    n_rows = max(64, _BLOCK // columns // 64 * 64)

    def block(first: int) -> list[list[int]]:
        last = min(first + n_rows, rows)
        read = [_read(one, first, last) for one in whole]
        (out, _), *others, (weights, _) = read
        for values, _ in others:
            out += values
        for i, row in enumerate((weights * sizes).tolist()):
            _add_terms(out.ctypes.data + 4 * columns * i, row, starts, columns)
        data = _narrowed(out.ctypes.data, out.size, base.dtype)
        at = first * columns * DTYPES[base.dtype]
        for file, offset, _ in places:
            if file < 0:
                ctypes.memmove(offset + at, data, len(data))
            else:
                core.write(file, data, offset + at)
        return [*(lanes for _, lanes in read), content_of(data, at)]

    sums = [[0] * 8 for _ in range(len(whole) + 1)]
    with ThreadPoolExecutor(n_threads) as pool:
        for parts in pool.map(block, range(0, rows, n_rows)):
            for total, part in zip(sums, parts, strict=True):
                add_content(total, part)
            if progress is not None:
                progress(n_rows * columns * DTYPES[base.dtype])
    *inputs, output = sums
    return [*zip(whole, inputs, strict=True), (s, s_print), (right, v_print)], output


def _add_terms(out: int, weights: Sequence[float], rows: Sequence[int], n: int) -> None:
    """Add the rows, each times its weight, to what is at ``out``, one after the other."""
    for first in range(0, len(rows), MAX_EXPERTS - 1):
        terms = rows[first : first + MAX_EXPERTS - 1]
        factors = weights[first : first + MAX_EXPERTS - 1]
        floors = [KEEP_ALL] * (len(terms) + 1)
        combine(_F32, *_SUM, 0, [out, *terms], [1.0, *factors], floors, 1.0, 0, out, n)


def _read(one: TensorInfo, first: int, last: int) -> tuple[npt.NDArray[np.float32], list[int]]:
    """These rows of a stored tensor, widened, and the content fingerprint of their bytes.

    A tensor of one dimension is one row.
    """
    import numpy as np

    columns = one.shape[-1]
    n_bytes = columns * DTYPES[one.dtype]
    data = read_rows(one, first, last)
    values = np.empty((last - first, columns), np.float32)
    widen(_address(data), DTYPE_CODES[one.dtype], values.ctypes.data, values.size)
    return values, content_of(data, first * n_bytes)


def _narrowed(values: int, n: int, dtype: str) -> bytes:
    """So many float32 values at an address, rounded to the dtype."""
    data = bytearray(n * DTYPES[dtype])
    narrow(values, _address(data), DTYPE_CODES[dtype], n)
    return bytes(data)


def _address(data: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(data)) if data else 0


class LowRankRun(PackRun):
    """One packing of singular triplets."""

    def write(self, directory: Path) -> Manifest:
        made = self._plan
        core = Plan(True)
        inputs = Inputs(core, made.input_files())
        outputs = self._open_outputs(core, directory)
        for name in made.masked:
            core.add_job(made.base.tensors[name].n_elements, self._inputs(name, inputs), [])
        n_set = [0] * len(made.masks)
        with single_threads(1) as pool:
            for job, name in enumerate(made.masked):
                factored = pool.submit(self._factor, core, job, name).result()
                self._store(core, outputs, name, factored)
                for i, (_, _, file) in enumerate(made.masks):
                    parts = (name, s_name(name), v_name(name))
                    n_set[i] += sum(made.places[file][part].n_elements for part in parts)
        self._copy_dense(core, outputs)
        self.record.note_unpacked()
        return self.record.manifest(n_set, [1.0] * len(made.tasks))

    def _factor(self, core: Plan, job: int, name: str) -> low_rank_files.Factored:
        made = self._plan
        place = made.places[made.masks[0][2]][name]
        has_shared = made.rule is not None
        try:
            return low_rank_files.factor(
                core,
                job,
                made.base.tensors[name].shape,
                len(made.tasks),
                place.shape[1],
                place.dtype,
                made.parameters["scale"] if has_shared else None,
                made.places[SHARED][name].dtype if has_shared else "F32",
                self._stop,
                self._limits,
                self._advance if self._progress else None,
            )
        except ValueError:
            raise InputError(self._objection(core, job)) from None

    def _store(
        self,
        core: Plan,
        outputs: Mapping[str, int],
        name: str,
        factored: low_rank_files.Factored,
    ) -> None:
        made = self._plan

        def put(file: str, part: str, data: bytes) -> None:
            info = made.places[file][part]
            core.write(outputs[file], data, info.offset)
            self.record.note_written(file, info, content_of(data))

        if factored.shared is not None:
            put(SHARED, name, factored.shared)
        for (_, _, file), parts in zip(made.masks, factored.factors, strict=True):
            for part, data in zip((name, s_name(name), v_name(name)), parts, strict=True):
                put(file, part, data)
        self.record.note_read(name, factored.prints)
