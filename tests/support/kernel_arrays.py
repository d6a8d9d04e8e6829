"""Arrays as arguments of the kernels, in any layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tests.support import strategies
from tests.support.strategies import KERNEL_DTYPES, Group

Array = npt.NDArray[Any]

VOTES = ("sum", "count")

ZEROS = ("majority", "positive", "negative", "drop")

BLENDS = ("mean", "sum", "max", "weighted_mean")


def f32(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


@st.composite
def arranged(draw: st.DrawFn, x: Array) -> Array:
    """The elements of ``x`` in some shape and memory layout, in the same row-major order."""
    kind = draw(st.sampled_from(["plain", "strided", "reversed", "columns", "scalar", "unaligned"]))
    if kind == "strided":
        return np.repeat(x, 2)[::2]
    if kind == "reversed":
        return x[::-1].copy()[::-1]
    if kind == "columns":
        rows = draw(st.sampled_from([n for n in (1, 2, 3, 4, 7) if x.size % n == 0]))
        return np.asfortranarray(x.reshape(rows, x.size // rows))
    if kind == "scalar" and x.size == 1:
        return x.reshape(())
    if kind == "unaligned":
        return np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1)
    return x


@st.composite
def arrays(draw: st.DrawFn, min_size: int = 0) -> Array:
    """Arrays of the kernels' types in any layout."""
    dtype = draw(st.sampled_from(KERNEL_DTYPES))
    return draw(arranged(draw(strategies.arrays(dtype, min_size))))


@st.composite
def groups(draw: st.DrawFn, max_experts: int = 4) -> Group:
    """A base and experts of one of the kernels' types."""
    dtype = draw(st.sampled_from(KERNEL_DTYPES))
    return draw(strategies.groups(dtype, max_experts=max_experts))


@st.composite
def deltas(draw: st.DrawFn) -> Array | list[Array]:
    """Task vectors as a sequence, each in a layout of its own, or stacked."""
    rows = draw(groups()).experts
    if draw(st.booleans()):
        return np.stack(rows) if draw(st.booleans()) else np.asfortranarray(np.stack(rows))
    return [draw(arranged(row)).reshape(row.shape) for row in rows]


def shape_of(group: Array | list[Array]) -> tuple[int, ...]:
    return group[0].shape
