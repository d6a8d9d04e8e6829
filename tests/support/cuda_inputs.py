"""Inputs of the CUDA kernels: lengths, alignments, floors and groups of experts."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tallies.engine.codes import INFINITY_BITS, KEEP_ALL, KEEP_NONE
from tests.reference.dtype import widen
from tests.support import strategies
from tests.support.cuda_table import Array
from tests.support.strategies import DTYPES, KERNEL_DTYPES, Group

# One library serves all examples: every call clears the memory that it needs.
settings.register_profile(
    "cuda", settings.get_profile("tallies"), suppress_health_check=[HealthCheck.too_slow]
)


examples = settings(settings.get_profile("cuda"), max_examples=40)


def lengths() -> st.SearchStrategy[int]:
    """Up to two chunks, or several blocks."""
    return strategies.sizes(0, 70) | st.sampled_from([2047, 2048, 2049, 20_001])


def grown(array: Array, n: int) -> Array:
    """The array's values again and again, n in all."""
    return np.resize(array, n) if array.size else np.zeros(n, array.dtype)


def grown_group(group: Group, n: int) -> Group:
    return Group(grown(group.base, n), [grown(expert, n) for expert in group.experts])


def shifts(dtype: np.dtype[Any]) -> st.SearchStrategy[int]:
    """Bytes behind an aligned address, multiples of the element."""
    return st.sampled_from([0, 0, 1, 3, 4, 8]).map(lambda k: k * dtype.itemsize)


def floors() -> st.SearchStrategy[int]:
    some = st.floats(0, 2, width=32).map(lambda x: int(np.float32(x).view(np.int32)))
    return some | st.sampled_from([KEEP_ALL, 0, INFINITY_BITS - 1, INFINITY_BITS, KEEP_NONE])


def code(dtype: np.dtype[Any]) -> int:
    return DTYPES.index(dtype)


KERNEL_GROUPS = st.sampled_from(KERNEL_DTYPES).flatmap(strategies.groups)
PAIRS = strategies.groups(min_experts=2, max_experts=2)
KERNEL_PAIRS = st.sampled_from(KERNEL_DTYPES).flatmap(
    lambda dtype: strategies.groups(dtype, min_experts=2, max_experts=2)
)


def deltas_of(group: Group, base: Array | None) -> Array:
    wide = np.stack([widen(expert) for expert in group.experts])
    return wide if base is None else wide - widen(base)
