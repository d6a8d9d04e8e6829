"""Products of small factors on the device: the kernel and its operator."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.dtype import narrow
from tests.reference.low_rank_product import added
from tests.support import strategies
from tests.support.cuda_inputs import code, examples, shifts
from tests.support.cuda_place import Place
from tests.support.cuda_table import CudaTable
from tests.support.everywhere import assert_same_bits
from tests.support.operators import tensor_of
from tests.support.strategies import KERNEL_DTYPES

SIZES = st.integers(1, 9) | st.sampled_from([63, 64, 65, 130])
RANKS = st.integers(1, 5) | st.sampled_from([15, 16, 17, 40])


@st.composite
def products(draw: st.DrawFn, factors: list[np.dtype[Any]]) -> list[Any]:
    """A base and two factors, smaller and larger than a tile."""
    rows, rank, columns = draw(SIZES), draw(RANKS), draw(SIZES)
    shapes = ((rows, columns), (rows, rank), (rank, columns))
    return [
        np.resize(draw(strategies.arrays(draw(st.sampled_from(dtypes)), 1)), shape)
        for shape, dtypes in zip(shapes, (KERNEL_DTYPES, factors, factors), strict=True)
    ]


@examples
@given(products([np.dtype(np.float32)]), strategies.scales(), st.data())
def test_kernel(table: CudaTable, product: list[Any], scale: float, data: st.DataObject) -> None:
    base, left, right = product
    there = [table.put(x, data.draw(shifts(x.dtype))) for x in product]
    out = table.empty(base.nbytes, data.draw(shifts(base.dtype)))
    addresses, sizes = [x.address for x in there], (*left.shape, base.shape[1])
    table("low_rank", *addresses, *sizes, scale, out.address, None, which=code(base.dtype))
    expected = narrow(added(base, left, right, scale), base.dtype)
    assert_same_bits(out.read(base.dtype, base.size).reshape(base.shape), expected)


@examples
@given(products(list(KERNEL_DTYPES)), strategies.scales())
def test_operator(place: Place, product: list[Any], scale: float) -> None:
    place.check("low_rank", *(tensor_of(x) for x in product), scale)
