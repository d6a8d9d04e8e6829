"""Conversions, magnitudes, task vectors and trims on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies.engine.codes import INFINITY_BITS, KEEP_ALL, KEEP_NONE
from tests.reference.dtype import narrow, widen
from tests.reference.select import magnitude_bits
from tests.support import strategies
from tests.support.cuda_inputs import (
    KERNEL_GROUPS,
    PAIRS,
    code,
    examples,
    floors,
    grown,
    grown_group,
    lengths,
    shifts,
)
from tests.support.cuda_table import CudaTable
from tests.support.everywhere import assert_same_bits
from tests.support.strategies import DTYPES, Group


@examples
@given(strategies.dtypes(), lengths(), st.data())
def test_widen_and_narrow(
    table: CudaTable, dtype: np.dtype[Any], length: int, data: st.DataObject
) -> None:
    x = grown(data.draw(strategies.arrays(dtype)), length)
    out = table.empty(4 * length, data.draw(shifts(np.dtype(np.float32))))
    there = table.put(x, data.draw(shifts(dtype)))
    table("widen", there.address, out.address, length, None, which=code(dtype))
    expected, found = widen(x), out.read(np.float32, length)
    numbers = ~np.isnan(expected)
    assert_same_bits(found[numbers], expected[numbers])
    assert np.isnan(found[~numbers]).all()

    y = grown(data.draw(strategies.arrays(np.float32)), length)
    back = table.empty(length * dtype.itemsize, data.draw(shifts(dtype)))
    there = table.put(y)
    table("narrow", there.address, back.address, length, None, which=code(dtype))
    assert_same_bits(back.read(dtype, length), narrow(y, dtype))


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.itemsize <= 2], ids=str)
def test_every_pattern_of_a_small_type(table: CudaTable, dtype: np.dtype[Any]) -> None:
    x = np.arange(2 ** (8 * dtype.itemsize)).astype(f"u{dtype.itemsize}").view(dtype)
    there, wide, back = table.put(x), table.empty(4 * x.size), table.empty(x.nbytes)
    table("widen", there.address, wide.address, x.size, None, which=code(dtype))
    table("narrow", wide.address, back.address, x.size, None, which=code(dtype))
    found, expected = wide.read(np.float32, x.size), widen(x)
    numbers = ~np.isnan(expected)
    assert_same_bits(found[numbers], expected[numbers])
    assert_same_bits(back.read(dtype, x.size), narrow(x, dtype))


@examples
@given(KERNEL_GROUPS, lengths(), st.booleans(), st.data())
def test_magnitudes(
    table: CudaTable, group: Group, length: int, with_base: bool, data: st.DataObject
) -> None:
    group = grown_group(group, length)
    expert, dtype = group.experts[0], group.base.dtype
    with np.errstate(all="ignore"):
        delta = widen(expert) - widen(group.base) if with_base else widen(expert)
    expected = np.minimum(magnitude_bits(delta), np.uint32(INFINITY_BITS + 1))
    base, there = table.put(group.base), table.put(expert, data.draw(shifts(dtype)))
    out = table.empty(4 * length)
    table(
        "magnitudes",
        base.address if with_base else None,
        there.address,
        length,
        out.address,
        None,
        which=code(dtype),
    )
    assert_same_bits(out.read(np.uint32, length), expected)


@examples
@given(PAIRS, lengths())
def test_subtract(table: CudaTable, group: Group, length: int) -> None:
    x, base = (grown(array, length) for array in group.experts)
    there, base_there = table.put(x), table.put(base)
    table("subtract", there.address, base_there.address, there.address, length, None)
    with np.errstate(all="ignore"):
        expected = x - base
    found = there.read(np.float32, length)
    numbers = ~np.isnan(expected)
    assert_same_bits(found[numbers], expected[numbers])
    assert np.isnan(found[~numbers]).all()


@examples
@given(KERNEL_GROUPS, lengths(), floors(), st.booleans(), st.data())
def test_trim(
    table: CudaTable,
    group: Group,
    length: int,
    floor: int,
    floor_there: bool,
    data: st.DataObject,
) -> None:
    x = grown(group.base, length)
    cut = data.draw(st.none() | st.integers(0, length))
    shift = data.draw(shifts(x.dtype))
    a, out = table.put(x, shift), table.empty(x.nbytes, shift)
    limit, cut_off = table.put(np.int32([floor])), table.put(np.uint64([0, cut or 0]))
    at = cut_off.address if cut is not None else None
    there = (KEEP_ALL, limit.address) if floor_there else (floor, None)
    table("trim", a.address, *there, at, out.address, length, None, which=code(x.dtype))
    least = np.full(length, floor)
    if floor_there and cut is not None:
        least[cut:] += floor < KEEP_NONE
    wide = widen(x)
    stays = np.minimum(magnitude_bits(wide), np.uint32(INFINITY_BITS + 1)) > least
    expected = narrow(np.where(stays, wide, np.float32(0)), x.dtype)
    assert_same_bits(out.read(x.dtype, length), expected)
