"""Merges the products of adapters by a method that is no plain sum, and factors what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.changes import Product
from ..checkpoint.tensors import TensorInfo
from ..linalg.randomised import Triplets, randomised_svd, row_blocks
from ..linalg.threads import Workers, results, single_threads
from ..spec.choices import AdapterSpace, Nonfinite
from .adapter_plan import AdapterPlan
from .combination import Combined, combine, concatenated, rounded, stored_error
from .elementwise import Operands, ProductMerge
from .operands import Factors, factors_of, read_values
from .spaces import Aligned, align
from .targets import Target
from .writer import AdapterWriter

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Made:
    """The factors of one tensor that were written."""

    rank: int
    norm: float
    error: float


def merge_products(
    made: AdapterPlan,
    writer: AdapterWriter,
    scratch: Path,
    *,
    max_bytes: int,
    n_workers: int,
    progress: Callable[[int], object] | None,
) -> tuple[list[Made], list[str]]:
    """Merge the products of every tensor, and write the factors of what comes out.

    Args:
        made: The plan.
        writer: The writer of the result.
        scratch: A file to create for what is merged in a small space; the caller removes it.
        max_bytes: Upper bound for the memory of matrices in hand.
        n_workers: Threads.
        progress: Is called with the bytes moved since the last call.

    Returns:
        The facts of each target, in the order of the plan, and warnings.

    Raises:
        InputError: A factor is not finite, or a matrix does not fit into memory.
        StorageError: Reading or writing fails.
    """
    targets = list(made.targets.values())
    aligned: list[_Stored] = []
    if made.config.adapter_space is not AdapterSpace.FULL:
        store = _Scratch(scratch)
        with single_threads(n_workers) as pool:
            found = results([pool.submit(_aligned, made, target, pool) for target in targets])
            aligned = [
                store.put(target.name, one) for target, one in zip(targets, found, strict=True)
            ]
    operands = [one.operands for one in aligned] or [
        Operands(
            target.name,
            target.matrix_shape,
            tuple(one.changes.get(target.name, ()) for one in made.operands),
        )
        for target in targets
    ]

    def take(number: int, merged: torch.Tensor, pool: Workers, again: bool) -> Made:
        target = targets[number]
        rank = made.rank(target.name)
        if aligned:
            with pool.undisturbed():
                exact = aligned[number].whole(merged)
            kept, stored = _of_aligned(made, exact, rank)
        else:
            kept, stored = _of_dense(made, merged, rank)
        with pool.undisturbed():
            writer.add(target, *stored, again=again)
        return kept

    merge = ProductMerge(
        made,
        operands,
        lambda name: _blame(made, name),
        max_bytes=max_bytes,
        n_workers=n_workers,
        progress=progress,
    )
    return merge.run(take), merge.warnings()


def _aligned(made: AdapterPlan, target: Target, pool: Workers) -> Aligned:
    """Return one tensor of all adapters in the space of the plan."""
    factors: list[Factors | None] = []
    for one in made.operands:
        # Values that are not finite have no singular vectors.
        with pool.undisturbed():
            own = [(1.0, p) for p in factors_of(one.changes.get(target.name, ()), finite=True)]
        factors.append(concatenated(own) if own else None)
    return align(made.config.adapter_space, factors)


def _blame(made: AdapterPlan, name: str) -> None:
    """Raise InputError for a factor of a tensor that is not finite."""
    for one in made.operands:
        for _ in factors_of(one.changes.get(name, ()), finite=True):
            pass


def _of_aligned(made: AdapterPlan, exact: Factors, rank: int) -> tuple[Made, Factors]:
    """Return the factors to write of a product of two."""
    found = combine(exact, rank)
    stored = rounded(found, made.dtype)
    return Made(found.rank, found.norm, stored_error(exact, stored, found.norm)), stored


def _of_dense(made: AdapterPlan, merged: torch.Tensor, rank: int) -> tuple[Made, Factors]:
    """Return the factors to write of a merged tensor, by a randomised SVD."""
    import numpy as np
    import torch

    stack = merged if merged.ndim == 3 else merged[None]
    with torch.inference_mode():
        if made.config.nonfinite is not Nonfinite.ERROR and not bool(merged.isfinite().all()):
            found = [_nonfinite(one) for one in stack]
        else:
            found = [randomised_svd(one, rank, seed=made.config.seed) for one in stack]
        kept = max(1, *(len(one.s) for one in found)) if len(found) > 1 else max(1, len(found[0].s))
        pairs = [_padded(one, kept) for one in found]
        left, right = (np.stack([pair[side] for pair in pairs]) for side in (0, 1))
        if merged.ndim == 2:
            left, right = left[0], right[0]
        norm = math.sqrt(math.fsum(one.energy for one in found))
        stored = rounded(Combined(left, right, norm, 0.0), made.dtype)
        factors = zip(*(one if merged.ndim == 3 else one[None] for one in stored), strict=True)
        lost = math.fsum(
            _squared_difference(x, *pair) for x, pair in zip(stack, factors, strict=True)
        )
    return Made(kept, norm, math.sqrt(lost) / norm if norm else 0.0), stored


def _nonfinite(x: torch.Tensor) -> Triplets:
    """Return triplets of NaN, for a matrix that has no others."""
    import torch

    m, n = x.shape
    nan = torch.full((1,), torch.nan, dtype=torch.float64)
    return Triplets(nan.expand(m, 1), nan, nan.expand(1, n), math.nan)


def _padded(found: Triplets, rank: int) -> Factors:
    """Return the factors of triplets, with zeros up to a rank."""
    import numpy as np

    left, right = (one.numpy() for one in found.factors())
    more = rank - left.shape[1]
    return np.pad(left, ((0, 0), (0, more))), np.pad(right, ((0, more), (0, 0)))


def _squared_difference(x: torch.Tensor, left: np.ndarray, right: np.ndarray) -> float:
    """Return the sum of squares of x - left @ right."""
    import torch

    a, b = torch.from_numpy(left).float(), torch.from_numpy(right).float()
    return math.fsum(
        float(
            torch.linalg.vector_norm(rows - a[first : first + len(rows)] @ b, dtype=torch.float64)
        )
        ** 2
        for first, rows in row_blocks(x).read()
    )


@dataclass(frozen=True)
class _Stored:
    """An aligned tensor whose arrays lie in a file."""

    operands: Operands
    left: TensorInfo
    right: TensorInfo | None

    def whole(self, merged: torch.Tensor) -> Factors:
        right = None if self.right is None else read_values(self.right, finite=False)
        left = read_values(self.left, finite=False)
        return Aligned(left, right, ()).whole(merged.double().numpy())


class _Scratch:
    """A file of float32 arrays."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0
        path.touch()

    def put(self, name: str, one: Aligned) -> _Stored:
        """Write an aligned tensor."""
        changes = tuple(
            () if part is None else (Product(self._put(part[0]), self._put(part[1])),)
            for part in one.parts
        )
        right = None if one.right is None else self._put(one.right)
        return _Stored(Operands(name, one.shape, changes), self._put(one.left), right)

    def _put(self, values: np.ndarray) -> TensorInfo:
        import numpy as np

        floats = np.ascontiguousarray(values, np.float32)
        begin, self._end = self._end, self._end + floats.nbytes
        with open(self._path, "r+b") as file:
            file.seek(begin)
            file.write(floats.tobytes())
        return TensorInfo("", "F32", floats.shape, self._path, begin, floats.nbytes)
