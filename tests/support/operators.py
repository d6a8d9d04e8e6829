"""Tensors as arguments of the operators, and one call of each operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import strategies as st
from torch import Tensor

from tallies.torch.numbered import NUMBERS
from tests.support import strategies
from tests.support.everywhere import assert_same_bits, on_every_target
from tests.support.strategies import KERNEL_DTYPES, Group

Array = npt.NDArray[Any]

VOTES = ("sum", "count")

ZEROS = ("majority", "positive", "negative", "drop")

BLENDS = ("mean", "sum", "max", "weighted_mean")

CELL = 1 << 16
"""Elements over which sums of products are added up before they are added to the others."""

BF16 = next(dtype for dtype in KERNEL_DTYPES if dtype.name == "bfloat16")


def tensor_of(x: Array) -> Tensor:
    """The same bits as a tensor of its own."""
    if x.dtype == BF16:
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


def array_of(x: Tensor) -> Array:
    assert x.is_contiguous() and not x.requires_grad
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(BF16)
    return x.numpy()


@st.composite
def arranged(draw: st.DrawFn, x: Array) -> Tensor:
    """The elements of ``x`` as a tensor of some strides, alignment and need of a gradient."""
    plain = tensor_of(x)
    kind = draw(st.sampled_from(["plain", "strided", "unaligned", "negated", "grad"]))
    if kind == "strided":
        return plain.repeat_interleave(2)[::2]
    if kind == "unaligned" and x.size:
        return torch.frombuffer(bytearray(b"\0" + x.tobytes()), dtype=plain.dtype, offset=1)
    if kind == "negated" and plain.dtype == torch.float32 and not np.isnan(x).any():
        return torch.complex(torch.zeros_like(plain), -plain).conj().imag
    return plain.requires_grad_(kind == "grad" and plain.is_floating_point())


@st.composite
def tensors(draw: st.DrawFn, min_size: int = 0) -> tuple[Array, Tensor]:
    """An array of the kernels' types and the tensor of the same elements."""
    x = draw(strategies.arrays(draw(st.sampled_from(KERNEL_DTYPES)), min_size))
    return x, draw(arranged(x))


@st.composite
def groups(draw: st.DrawFn, max_experts: int = 4) -> Group:
    dtype = draw(st.sampled_from(KERNEL_DTYPES))
    return draw(strategies.groups(dtype, max_experts=max_experts))


@st.composite
def deltas(draw: st.DrawFn) -> tuple[list[Array], list[Tensor] | Tensor]:
    """Task vectors as arrays and as tensors, in a list or stacked."""
    rows = list(draw(groups()).experts)
    if draw(st.booleans()):
        axis = draw(st.sampled_from([0, 1]))
        return rows, torch.stack([tensor_of(row) for row in rows], axis).movedim(axis, 0)
    return rows, [draw(arranged(row)) for row in rows]


def assert_everywhere(compute: Callable[[], Tensor], *expected: Array | np.generic) -> None:
    """Every instruction set gives the bits of all that is expected."""
    for result in on_every_target(compute).values():
        for one in expected:
            actual = array_of(result)
            assert_same_bits(actual, np.asarray(one))


X = torch.tensor([1.0, -3.0, 2.0, -3.0, 0.0, 0.5, 7.0, -1.0, 4.0])

Y = torch.tensor([2.0, 3.0, -2.0, -1.0, 1.0, 0.5, -7.0, 1.0, 0.0])

SIGNS = torch.tensor([1, -1, 1, -1, 0, 1, 1, -1, 1], dtype=torch.int8)

MASK = torch.tensor([0b10101010, 1], dtype=torch.uint8)

CASES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "kth_magnitude": ((X, 2), {}),
    "kth_magnitude_counted": ((X, 2), {}),
    "trim": ((X, 0.3), {"equal": "first"}),
    "trim_counted": ((X, 0.4), {"equal": "first"}),
    "magnitude_mask": ((X, 2.0), {}),
    "tall_mask": ((X, Y, 0.4), {}),
    "consensus_mask": (([MASK, MASK], 9, 2), {}),
    "pack_bits": ((X > 0,), {}),
    "unpack_bits": ((MASK, 9), {}),
    "apply_mask": ((X, Y, MASK, 0.5), {}),
    "elect_signs": (([X, Y], [1.0, 2.0]), {"vote": "count"}),
    "disjoint_merge": (([X, Y], SIGNS, [1.0, 2.0]), {"blend": "max"}),
    "masked_mean": (([X, Y], [X > 0, Y > 0], [1.0, 2.0]), {}),
    "combine_many": (
        ([X, Y[:4]], [[X + Y, Y], [X[:4]]]),
        {"vote": "sum", "blend": "sum_of_agreeing", "density": 0.5, "dtype": torch.bfloat16},
    ),
    "ties": ((X, [X + Y, Y]), {"density": [0.5, 0.5], "scale": 0.7}),
    "combine": ((None, [X, Y]), {"density": [0.5, 0.7], "vote": "count", "zero": "drop"}),
    "low_rank": ((X.view(3, 3), X[:6].view(3, 2), Y[:6].view(2, 3), 0.5), {}),
    "gram": (([X, Y],), {}),
    "block_dots": ((X, [X, Y]), {}),
}

FLAT: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "combine_many": (
        ([X, Y[:4]], [X + Y, Y, X[:4]], [2, 1]),
        {**CASES["combine_many"][1], "density": [0.5] * 3},
    ),
}
"""The arguments of operators that have lists where their functions have lists of lists."""

IN_PLACE: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "change_elements_": (
        (
            X.int(),
            torch.tensor([3], dtype=torch.uint8),
            torch.tensor([1, 1], dtype=torch.int32),
            X[:1].int(),
        ),
        {"layout": "gaps", "coding": "xor"},
    ),
}
"""Operators that change their first argument, and that no function is named after."""

OF_NUMBERS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "merge_by_number": (
        (X, [X + Y, Y], NUMBERS["paper", "keep", "total", "mean"], 0.5),
        {"scale": 0.7, "threads": 1},
    ),
}
"""Operators that take numbers in the place of words, for functions of other names."""


def same(a: Any, b: Any) -> bool:
    """Tell if results are tensors of the same bits, or alike lists of them."""
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b))


def tensors_in(result: Any) -> list[Tensor]:
    """The tensors of a result, which may be nested in lists."""
    if isinstance(result, (list, tuple)):
        return [x for one in result for x in tensors_in(one)]
    return [result]
