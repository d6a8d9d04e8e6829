"""Multiplies singular triplets out and adds them to the base, by blocks of rows.

The terms are summed by the native combine, whose experts are the rows of V^T and whose weights are
a row of U diag(s): float32, the same bits on every processor and any number of threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ..._core import Plan, combine, narrow, widen
from ...checkpoint.data import read_range
from ...checkpoint.tensors import TensorInfo
from ...engine.arrays import address_of
from ...engine.codes import BLEND_CODES, GATE_CODES, KEEP_ALL, MAX_EXPERTS, VOTE_CODES
from ...engine.files import Place
from ...engine.fingerprints import add_content, content_of
from ...linalg.threads import Workers
from ...spec.dtypes import DTYPE_CODES, DTYPES
from ...spec.rules import Blend, Gate, Vote
from ._low_rank_layout import s_name, v_name

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_SUM: Final = (GATE_CODES[Gate.ALL], VOTE_CODES[Vote.NONE], BLEND_CODES[Blend.SUM])

# Elements of the rows that are restored together. Blocks begin at multiples of 64 rows, which are
# stripes of the fingerprint, however long a row is.
_BLOCK: Final = 1 << 20


def restore_matrix(
    plan: Plan,
    base: TensorInfo,
    shared: TensorInfo | None,
    stored: Mapping[str, TensorInfo],
    places: Sequence[Place],
    n_threads: int,
    progress: Callable[[int], object] | None = None,
) -> tuple[list[tuple[TensorInfo, list[int]]], list[int]]:
    """Write base + shared + U diag(s) V^T of one matrix to ``places``, in the dtype of the base.

    Args:
        plan: The plan in which the output files are open.
        base: The matrix of the base.
        shared: The shared vector; None where nothing is shared.
        stored: Tensors of the task's file by name.
        places: Places of the result.
        n_threads: The number of threads.
        progress: Called with the bytes moved since the last call.

    Returns:
        Every tensor that was read with its content fingerprint; the fingerprint of the result.

    Raises:
        StorageError: Reading or writing fails.
    """
    import numpy as np

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
        with np.errstate(all="ignore"):  # damage is told by fingerprints, not by warnings
            for values, _ in others:
                out += values
            weights *= sizes
        for i, row in enumerate(weights.tolist()):
            _add_terms(out.ctypes.data + 4 * columns * i, row, starts, columns)
        data = bytearray(out.size * DTYPES[base.dtype])
        narrow(out.ctypes.data, address_of(data), DTYPE_CODES[base.dtype], out.size)
        at = first * columns * DTYPES[base.dtype]
        with pool.undisturbed():
            for file, offset, _ in places:
                if file < 0:
                    ctypes.memmove(offset + at, bytes(data), len(data))
                else:
                    plan.write(file, bytes(data), offset + at)
        return [*(lanes for _, lanes in read), content_of(data, at)]

    sums = [[0] * 8 for _ in range(len(whole) + 1)]
    with Workers(n_threads) as pool:
        for parts in pool.map(block, range(0, rows, n_rows)):
            for total, part in zip(sums, parts, strict=True):
                add_content(total, part)
            if progress is not None:
                progress(n_rows * columns * DTYPES[base.dtype])
    *inputs, output = sums
    return [*zip(whole, inputs, strict=True), (s, s_print), (right, v_print)], output


def _add_terms(out: int, weights: Sequence[float], rows: Sequence[int], n: int) -> None:
    """Add the rows, each times its weight, to the ``n`` values at ``out``, one after the other."""
    for first in range(0, len(rows), MAX_EXPERTS - 1):
        terms = rows[first : first + MAX_EXPERTS - 1]
        factors = weights[first : first + MAX_EXPERTS - 1]
        floors = [KEEP_ALL] * (len(terms) + 1)
        combine(
            DTYPE_CODES["F32"], *_SUM, 0, [out, *terms], [1.0, *factors], floors, 1.0, 0, out, n
        )


def _read(one: TensorInfo, first: int, last: int) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Return these rows of a stored tensor in float32, and the content fingerprint of their bytes.

    A tensor of one dimension is one row.
    """
    import numpy as np

    columns = one.shape[-1]
    n_bytes = columns * DTYPES[one.dtype]
    data = read_range(one, first * n_bytes, (last - first) * n_bytes)
    values = np.empty((last - first, columns), np.float32)
    widen(address_of(data), DTYPE_CODES[one.dtype], values.ctypes.data, values.size)
    return values, content_of(data, first * n_bytes)
