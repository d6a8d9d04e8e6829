"""Sums and inner products on the device, added in the order of the processor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import cuda_table
from tests.support.cuda_inputs import KERNEL_PAIRS, PAIRS, code, examples, grown
from tests.support.cuda_table import CudaTable
from tests.support.everywhere import assert_same_bits
from tests.support.strategies import Group


def lane_sums(terms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Eight sums of each stretch, element i in lane i % 8, in order."""
    stretches = -(-terms.size // cuda_table.STRETCH)
    padded = np.zeros(stretches * cuda_table.STRETCH)
    padded[: terms.size] = terms
    lanes = np.zeros((stretches, 8))
    for row in padded.reshape(stretches, cuda_table.STRETCH // 8, 8).transpose(1, 0, 2):
        lanes = lanes + row
    return lanes.ravel()


@examples
@given(PAIRS, st.sampled_from([0, 1, 7, 2047, 2048, 2049, 20_001]))
def test_sums(table: CudaTable, group: Group, length: int) -> None:
    a, b = (grown(array, length) for array in group.experts)
    x, y = table.put(a, 4), table.put(b)
    n_lanes = 8 * -(-length // cuda_table.STRETCH)
    with np.errstate(all="ignore"):
        products = lane_sums(a.astype(np.float64) * b.astype(np.float64))
        magnitudes = lane_sums(np.abs(a.astype(np.float64)))
    for name, arguments, expected in (
        ("dot", (x.address, y.address), products),
        ("sum_magnitudes", (x.address,), magnitudes),
    ):
        lanes = table.empty(8 * n_lanes)
        table(name, *arguments, length, lanes.address, None)
        found = lanes.read(np.float64, n_lanes)
        numbers = ~np.isnan(expected)
        assert_same_bits(found[numbers], expected[numbers])
        assert np.isnan(found[~numbers]).all()


@settings(examples, max_examples=20)
@given(KERNEL_PAIRS, st.sampled_from([0, 9, 2049, cuda_table.CELL + 9, 3 * cuda_table.CELL - 5000]))
def test_inner_products(table: CudaTable, group: Group, length: int) -> None:
    a, b = (grown(array, length) for array in group.experts)
    x, y = table.put(a, a.itemsize), table.put(b)
    n_stretches = -(-length // cuda_table.STRETCH)
    lanes, out = table.empty(64 * n_stretches), table.put(np.array([0.5]))
    table("dot", x.address, y.address, length, lanes.address, None, which=code(a.dtype))
    table("fold", lanes.address, n_stretches, out.address, None)
    expected = np.float64(0.5)
    with np.errstate(all="ignore"):
        sums = lane_sums(a.astype(np.float64) * b.astype(np.float64)).reshape(-1, 8)
        for first in range(0, n_stretches, cuda_table.CELL // cuda_table.STRETCH):
            of_cell = np.float64(0)
            for p in sums[first : first + cuda_table.CELL // cuda_table.STRETCH]:
                of_cell += ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]))
            expected += of_cell
    if np.isnan(expected):
        expected = np.float64(np.nan)
    assert_same_bits(out.read(np.float64, 1)[0], expected)
