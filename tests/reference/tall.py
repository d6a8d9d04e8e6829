"""TALL masks: one shared vector, and per task one bit per element: whether to add it there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .blend import disjoint_merge
from .dtype import Array, Floats, Packed, narrow
from .elect import elect_signs
from .masks import apply_mask, tall_mask
from .model import flatten, float_names, split
from .select import trim
from .sums import in_order_sum
from .task_arithmetic import task_vectors

Model = Mapping[str, Array]
Vector = Mapping[str, Floats]
"""A task vector or a sum of some: the float32 part of each trained tensor, in the base's shapes."""
Masks = Mapping[str, Packed]
"""The packed bits of one task, [(n + 7) // 8] for each trained tensor of n elements."""


def trained_names(base: Model, experts: Sequence[Model], *, integers: bool = False) -> list[str]:
    """Names of the tensors whose bytes or dtype differ from the base's in at least one expert.

    Sorted by their UTF-8 bytes. The other tensors are frozen and no part of anything here, so that
    P counts trained elements only. Integers and booleans take part only if `integers`.
    """
    names = sorted(base, key=lambda name: name.encode()) if integers else float_names(base)
    return [
        name for name in names if not all(same_bytes(base[name], model[name]) for model in experts)
    ]


def same_bytes(a: Array, b: Array) -> bool:
    """Equal dtype and bits: NaN equals itself, -0 differs from +0."""
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def vectors(base: Model, experts: Sequence[Model], names: Sequence[str]) -> list[Vector]:
    """The task vector of each expert: expert - base in float32, for the tensors named."""
    return [
        {name: task_vectors(base[name], [expert[name]])[0, ...] for name in names}
        for expert in experts
    ]


def shared_vector(
    tasks: Sequence[Vector], shared: str = "ta", density: float = 0.2
) -> dict[str, Floats]:
    """Return the shared vector of `tasks`, float32 and not yet rounded for storage.

    "ta": their sum, in order. "ties": each trimmed to `density` and the signs elected over all
    tensors at once as TIES does, then the sum of the entries that agree (not their mean).
    """
    names = list(tasks[0])
    xs = np.stack([flatten(x, names) for x in tasks])
    if shared == "ties":
        xs = np.stack([trim(x, density) for x in xs])
        merged = disjoint_merge(xs, elect_signs(xs), blend="sum")
    else:
        merged = narrow(in_order_sum(xs), np.float32)
    return split(merged, tasks[0], names)


def stored(shared: Vector, base: Model, dtype: npt.DTypeLike | None = None) -> dict[str, Array]:
    """The shared vector as a store holds it: rounded once to `dtype`, by default the base's."""
    return {
        name: narrow(m, base[name].dtype if dtype is None else dtype) for name, m in shared.items()
    }


def masks(
    tasks: Sequence[Vector], shared: Vector, lambdas: float | Sequence[float] = 0.4
) -> list[Masks]:
    """|x_t| > lambda_t * |m - x_t| strictly, for each task, with the unrounded `shared` as m.

    `lambdas` is one for all tasks or one for each. False where either side is NaN.
    """
    each = [lambdas] * len(tasks) if isinstance(lambdas, int | float) else lambdas
    return [
        {name: tall_mask(x[name], shared[name], lam) for name in x}
        for x, lam in zip(tasks, each, strict=True)
    ]


def unpack(base: Model, shared: Model, bits: Masks, scale: float = 1.0) -> dict[str, Array]:
    """One task: base + scale * (shared where its mask is set, +0 elsewhere), in the base's dtypes.

    `shared` is the vector as stored. Product and sum are rounded in float32. A tensor without a
    mask is copied from the base.
    """
    return {
        name: apply_mask(tensor, shared[name], bits[name], scale) if name in bits else tensor.copy()
        for name, tensor in base.items()
    }


def bits_on_disk(n_trained: int, n_frozen: int, n_tasks: int, bits_per_parameter: int = 32) -> int:
    """The paper's size of a store, in bits: base and shared vector, and one bit for each task.

    (64 + T) P' + 32 F for T tasks, P' trained and F frozen parameters of 32 bits.
    """
    return (2 * bits_per_parameter + n_tasks) * n_trained + bits_per_parameter * n_frozen


def bits_of_experts(
    n_trained: int, n_frozen: int, n_tasks: int, bits_per_parameter: int = 32
) -> int:
    """The paper's size of the experts themselves, in bits: 32 (T P' + F)."""
    return bits_per_parameter * (n_tasks * n_trained + n_frozen)
