"""Packed masks on the device: written, counted, applied."""

from __future__ import annotations

import ctypes as c
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies.engine.codes import INFINITY_BITS, KEEP_ALL, KEEP_NONE
from tests.reference import masks as masks_reference
from tests.reference.dtype import narrow, widen
from tests.reference.masks import pack_bits, unpack_bits
from tests.reference.select import magnitude_bits
from tests.reference.sums import in_order_sum
from tests.support import cuda_table, strategies
from tests.support.cuda_inputs import (
    KERNEL_GROUPS,
    KERNEL_PAIRS,
    code,
    deltas_of,
    examples,
    floors,
    grown,
    grown_group,
    lengths,
    shifts,
)
from tests.support.cuda_table import Array, CudaTable, floats, pointers
from tests.support.everywhere import assert_same_bits
from tests.support.strategies import Group


def same_sign(x: Array, u: Array) -> Array:
    return pack_bits(((x > 0) & (u > 0)) | ((x < 0) & (u < 0)))


@examples
@given(KERNEL_PAIRS, lengths(), floors(), st.booleans(), strategies.scales(), st.data())
def test_masks_of_task_vectors(
    table: CudaTable,
    group: Group,
    length: int,
    floor: int,
    floor_there: bool,
    lam: float,
    data: st.DataObject,
) -> None:
    x, m = (grown(array, length) for array in group.experts)
    a, b = (table.put(array, data.draw(shifts(array.dtype))) for array in (x, m))
    limit = table.put(np.array([floor], np.int32))
    n_bytes = (length + 7) // 8
    which = code(x.dtype)
    x, m = widen(x), widen(m)
    large = magnitude_bits(x) > floor
    large |= np.isnan(x) & (floor < KEEP_NONE)
    there = (KEEP_ALL, limit.address) if floor_there else (floor, None)
    calls: list[tuple[str, tuple[Any, ...], Array]] = [
        ("magnitude_mask", (a.address, *there), pack_bits(large)),
        ("tall_mask", (a.address, b.address, lam), masks_reference.tall_mask(x, m, lam)),
    ]
    if which == 0:
        calls.append(("same_sign_mask", (a.address, b.address), same_sign(x, m)))
        calls.append(("sign_mask", (a.address,), pack_bits(~(x < 0))))
    for name, arguments, expected in calls:
        out = table.empty(n_bytes, 1)
        table(name, *arguments, out.address, length, None, which=which)
        assert_same_bits(out.read(np.uint8, n_bytes), expected)


@examples
@given(st.integers(1, 20), st.integers(0, 22), lengths(), st.integers(0, 7))
def test_consensus_mask(
    table: CudaTable, n_masks: int, at_least: int, length: int, shift: int
) -> None:
    rng = np.random.default_rng(length)
    packed = [pack_bits(rng.random(length) < 0.5) for _ in range(n_masks)]
    there = [table.put(mask, shift) for mask in packed]
    rows = pointers([memory.address for memory in there])
    out = table.empty((length + 7) // 8)
    table("consensus_mask", c.addressof(rows), n_masks, at_least, out.address, length, None)
    expected = masks_reference.consensus_mask(packed, length, at_least)
    assert_same_bits(out.read(np.uint8, expected.size), expected)


@examples
@given(lengths(), st.sampled_from([0, 1, 8]))
def test_pack_and_unpack(table: CudaTable, length: int, shift: int) -> None:
    x = np.random.default_rng(length).integers(0, 3, length, np.uint8)
    there, packed = table.put(x, shift), table.empty((length + 7) // 8, 1)
    table("pack_bits", there.address, packed.address, length, None)
    assert_same_bits(packed.read(np.uint8, (length + 7) // 8), pack_bits(x != 0))
    back = table.empty(length, shift)
    table("unpack_bits", packed.address, back.address, length, None)
    assert_same_bits(back.read(np.uint8, length), (x != 0).astype(np.uint8))


def largest_rank(x: Array) -> int:
    """Return the rank that `largest` must have: NaN is one magnitude, above infinity."""
    return int(np.minimum(magnitude_bits(x), INFINITY_BITS + 1).max(initial=0))


@examples
@given(KERNEL_GROUPS, lengths(), strategies.scales(), st.data())
def test_apply(
    table: CudaTable, group: Group, length: int, scale: float, data: st.DataObject
) -> None:
    group = grown_group(group, length)
    base, shared = group.base, group.experts[0]
    dtype = base.dtype
    mask = pack_bits(np.random.default_rng(length).random(length) < 0.5)
    inside = unpack_bits(mask, length)
    with np.errstate(all="ignore"):
        masked = widen(base) + np.float32(scale) * np.where(inside, widen(shared), np.float32(0))
        signed = widen(base) + np.where(inside, np.float32(scale), -np.float32(scale))
    shift = data.draw(shifts(dtype))
    b, s, bits = table.put(base, shift), table.put(shared, shift), table.put(mask, 1)
    for name, arguments, expected in (
        ("apply_mask", (b.address, s.address, bits.address), masked),
        ("apply_signs", (b.address, bits.address), signed),
    ):
        out, largest = table.empty(base.nbytes, shift), table.zeros(4)
        table(
            name,
            *arguments,
            scale,
            out.address,
            length,
            largest.address,
            None,
            which=code(dtype),
        )
        assert_same_bits(out.read(dtype, length), narrow(expected, dtype))
        found = int(largest.read(np.int32, 1)[0])
        assert min(found, INFINITY_BITS + 1) == largest_rank(expected)


@examples
@given(KERNEL_GROUPS, lengths(), st.integers(1, 3), st.data())
def test_tall(
    table: CudaTable, group: Group, length: int, n_lambdas: int, data: st.DataObject
) -> None:
    group = grown_group(group, length)
    dtype, n = group.base.dtype, len(group.experts)
    n_masks = n * n_lambdas
    lambdas = data.draw(st.lists(strategies.scales(), min_size=n_masks, max_size=n_masks))
    with np.errstate(all="ignore"):
        deltas = deltas_of(group, group.base)
        total = in_order_sum(deltas)
    shift = data.draw(shifts(dtype))
    base, experts = table.put(group.base, shift), [table.put(x, shift) for x in group.experts]
    shared, largest = table.empty(group.base.nbytes, shift), table.zeros(4)
    n_bytes = (length + 7) // 8
    masks = [table.empty(n_bytes) for _ in lambdas]
    rows, factors, outputs = (
        pointers([memory.address for memory in experts]),
        floats(lambdas),
        pointers([memory.address for memory in masks]),
    )
    args = cuda_table.TallArgs(
        base.address,
        c.addressof(rows),
        n,
        c.addressof(factors),
        n_lambdas,
        shared.address,
        c.addressof(outputs),
        length,
    )
    table("tall", c.addressof(args), largest.address, None, which=code(dtype))
    assert_same_bits(shared.read(dtype, length), narrow(total, dtype))
    found = int(largest.read(np.int32, 1)[0])
    assert min(found, INFINITY_BITS + 1) == largest_rank(total)
    for k, (mask, lam) in enumerate(zip(masks, lambdas, strict=True)):
        expected = masks_reference.tall_mask(deltas[k // n_lambdas], total, lam)
        assert_same_bits(mask.read(np.uint8, n_bytes), expected)


def test_too_many_masks_are_refused(table: CudaTable) -> None:
    args = cuda_table.TallArgs(None, None, 256, None, 5, None, None, 8)
    with pytest.raises(RuntimeError, match="tall: at most 1024 masks in one call"):
        table("tall", c.addressof(args), None, None)
