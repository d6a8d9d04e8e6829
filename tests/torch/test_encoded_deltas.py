"""Merges of encoded task vectors have the bits of dense ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tallies import _core
from tallies.spec.dtypes import DTYPE_CODES, DTYPE_OF_ARRAY
from tallies.torch.encoded import EncodedDelta, store_deltas
from tallies.torch.weighted import weighted_merge
from tests.reference import weighted as reference
from tests.support import strategies
from tests.support.everywhere import assert_everywhere
from tests.support.strategies import KERNEL_DTYPES
from tests.support.switching import (
    bits,
    packed,
)

Array = npt.NDArray[Any]

CELL = reference.CELL

EDGES = (reference.CHUNK - 1, reference.CHUNK + 9, CELL + 70)


def tensor_of(array: Array) -> torch.Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def array_of(tensor: torch.Tensor) -> Array:
    import ml_dtypes

    if tensor.dtype == torch.bfloat16:
        return tensor.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


class Encoded(NamedTuple):
    """A delta, and what it stands for."""

    delta: torch.Tensor | EncodedDelta
    dense: npt.NDArray[np.float32]


def place(memory: torch.Tensor, code: int) -> tuple[int, int, int]:
    return (-1, memory.data_ptr(), code)


@st.composite
def encoded(draw: st.DrawFn, n: int) -> Encoded:
    """A task vector of n elements in one of the forms of stores; long ones repeat themselves."""

    def values(dtype: Any, size: int) -> Array:
        few = draw(strategies.arrays(dtype, min(size, 150), min(size, 200)))
        return np.resize(few, size)

    form = draw(st.sampled_from(["zero", "dense", "masked", "signs", "sparse", "quantized"]))
    dtype = draw(st.sampled_from(KERNEL_DTYPES))
    code = DTYPE_CODES[DTYPE_OF_ARRAY[dtype.name]]
    mask = np.resize(draw(strategies.arrays(np.float32, min(n, 150), min(n, 200))) > 0, n)
    bits_set = torch.from_numpy(np.packbits(mask, bitorder="little"))
    scale = float(np.float32(draw(st.sampled_from([1.0, -0.3, 0.0, 1e30, -1e-40]))))
    native, dense = _core.Source.zero(), np.zeros(n, np.float32)
    memory: list[torch.Tensor] = [bits_set]
    packed = place(bits_set, -1)
    starts = _core.count_mask(mask=bits_set.data_ptr(), n_elements=n)
    if form == "dense":
        x = values(dtype, n)
        return Encoded(tensor_of(x), reference.widen(x))
    if form == "masked":
        x = values(dtype, n)
        memory.append(tensor_of(x))
        native = _core.Source.masked(values=place(memory[1], code), mask=packed, scale=scale)
        dense = reference.masked(x, bits_set.numpy(), scale)
    elif form == "signs":
        native = _core.Source.signs(mask=packed, scale=scale)
        dense = reference.signs(bits_set.numpy(), scale, n)
    elif form == "sparse":
        x = values(dtype, int(mask.sum()))
        memory.append(tensor_of(x))
        native = _core.Source.sparse(values=place(memory[1], code), mask=packed, starts=starts)
        dense = reference.sparse(bits_set.numpy(), x, n)
    elif form == "quantized":
        x = np.resize(np.arange(-127, 128, 3), int(mask.sum())).astype(np.int8)
        n_rows = draw(st.sampled_from([rows for rows in (1, 2, 3, 7) if n % rows == 0]))
        scales = values(np.float32, n_rows)
        memory += [torch.from_numpy(x), torch.from_numpy(scales)]
        native = _core.Source.quantized(
            values=place(memory[1], DTYPE_CODES["F8_E4M3"]),
            mask=packed,
            scales=place(memory[2], DTYPE_CODES["F32"]),
            starts=starts,
            row_length=max(n // n_rows, 1),
        )
        dense = reference.sparse(bits_set.numpy(), x, n, scales)
    return Encoded(EncodedDelta(torch.Size([n]), native, tuple(memory)), dense)


@given(data=st.data())
@settings(max_examples=40)
def test_decoding(data: st.DataObject) -> None:
    delta, dense = data.draw(encoded(data.draw(strategies.sizes() | st.sampled_from(EDGES))))
    if isinstance(delta, EncodedDelta):
        assert_everywhere(lambda: delta.dense().numpy(), reference.narrow(dense, np.float32))


@given(data=st.data())
@settings(max_examples=30)
def test_merge_and_gradient_of_encoded_deltas(data: st.DataObject) -> None:
    n = data.draw(strategies.sizes() | st.sampled_from(EDGES))
    rows = [data.draw(encoded(n)) for _ in range(data.draw(st.sampled_from([1, 2, 3, 4, 5, 9])))]
    few = [
        data.draw(strategies.arrays(data.draw(st.sampled_from(KERNEL_DTYPES)), min(n, 150), 200))
        for _ in range(2)
    ]
    base = np.resize(few[0], n)
    grad = reference.narrow(np.resize(few[1], n), base.dtype)
    n_blocks = data.draw(st.sampled_from([None, 1, 2, 3, 7, 70]))
    shape = (len(rows),) if n_blocks is None else (len(rows), 1, n_blocks)
    drawn = data.draw(strategies.arrays(np.float32, 9, 40))
    factors = np.resize(drawn, shape)
    deltas, dense = [row.delta for row in rows], [row.dense for row in rows]

    def merged() -> tuple[Array, Array]:
        coefficients = torch.tensor(factors, dtype=torch.float64, requires_grad=True)
        out = weighted_merge(tensor_of(base), deltas, coefficients)
        out.backward(tensor_of(grad))
        assert coefficients.grad is not None
        return array_of(out), coefficients.grad.reshape(len(rows), -1).numpy()

    by_block = factors.reshape(len(rows), -1)
    assert_everywhere(lambda: merged()[0], reference.weighted_sum(base, dense, by_block), base)
    expected = reference.block_dots(grad, dense, by_block.shape[1])
    assert_everywhere(lambda: merged()[1], expected, base, grad)


def test_threads_change_no_bit() -> None:
    n = 3 * CELL + 17
    base, grad, delta = torch.randn(3, n).unbind()
    before = torch.get_num_threads()
    seen = set()
    try:
        for n_threads in (1, 2, 5):
            torch.set_num_threads(n_threads)
            coefficients = torch.full((1, 1, 2), 0.3, dtype=torch.float64, requires_grad=True)
            merged = weighted_merge(base, [delta], coefficients)
            merged.backward(grad)
            assert coefficients.grad is not None
            seen.add((bits(merged), bits(coefficients.grad)))
    finally:
        torch.set_num_threads(before)
    assert len(seen) == 1


@pytest.mark.parametrize("n_blocks", [1, 2, 3, 50])
def test_the_gradient_of_blocks_is_that_of_the_plain_expression(n_blocks: int) -> None:
    base, seed = torch.randn(6, 7), torch.randn(6, 7)
    deltas = torch.randn(3, 6, 7)
    coefficients = torch.randn(3, 1, n_blocks, requires_grad=True)
    weighted_merge({"w": base}, [{"w": one} for one in deltas], coefficients)["w"].backward(seed)
    plain = coefficients.detach().requires_grad_()
    block_of = torch.tensor(
        [k for k, block in enumerate(reference.blocks(42, n_blocks)) for _ in range(42)[block]]
    )
    merged = base + (plain[:, 0][:, block_of].reshape(3, 6, 7) * deltas).sum(0)
    merged.backward(seed)
    assert coefficients.grad is not None and plain.grad is not None
    assert torch.allclose(coefficients.grad, plain.grad, rtol=1e-5, atol=1e-6)


class Sizes(TorchDispatchMode):
    """Notes the bytes of all tensors that operations return."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        result: torch.Tensor = func(*args, **(kwargs or {}))
        self.seen[result.data_ptr()] = result.nbytes
        return result


def test_no_temporary_of_the_tensor_s_size(tmp_path: Path) -> None:
    base = {"w": torch.randn(CELL, 4)}
    store = packed(tmp_path, base, "tall")
    coefficients = torch.full((3,), 0.3, requires_grad=True)
    deltas = store_deltas(store)
    merged = weighted_merge(base, deltas, coefficients)["w"]
    seed = torch.randn(merged.shape)
    known = {tensor.data_ptr() for tensor in (base["w"], merged, seed, coefficients)}
    with Sizes() as forward:
        again = weighted_merge(base, deltas, coefficients)["w"]
    with Sizes() as backward:
        merged.backward(seed)
    for sizes, expected in ((forward, [again.nbytes]), (backward, [])):
        large = [
            n_bytes
            for address, n_bytes in sizes.seen.items()
            if n_bytes > merged.nbytes / 100 and address not in known
        ]
        assert sizes.seen and large == expected
