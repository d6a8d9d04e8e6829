"""The exact selection on the device, and the cut-off among equal magnitudes."""

from __future__ import annotations

import ctypes as c

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tallies.engine.codes import INFINITY_BITS
from tests.reference.dtype import widen
from tests.reference.select import magnitude_bits
from tests.support import cuda_table, strategies
from tests.support.cuda_inputs import code, examples, grown_group, lengths, shifts
from tests.support.cuda_table import Array, CudaTable
from tests.support.strategies import KERNEL_DTYPES, Group


def ranks_of(group: Group, with_base: bool) -> Array:
    with np.errstate(all="ignore"):
        expert = widen(group.experts[0])
        delta = expert - widen(group.base) if with_base else expert
    return np.minimum(magnitude_bits(delta), INFINITY_BITS + 1).astype(np.int64)


@settings(examples, max_examples=100)
@given(
    st.sampled_from(KERNEL_DTYPES).flatmap(
        lambda dtype: st.lists(strategies.groups(dtype, 1, 1, min_size=1), min_size=1, max_size=3)
    ),
    lengths(),
    st.booleans(),
    st.sampled_from([0, 5, 1000, 100_000]),
    st.data(),
)
def test_selection_and_cut_off(
    table: CudaTable,
    groups: list[Group],
    length: int,
    with_base: bool,
    capacity: int,
    data: st.DataObject,
) -> None:
    groups[0] = grown_group(groups[0], max(length, 1))
    parts = [ranks_of(group, with_base) for group in groups]
    everything = np.concatenate(parts)
    rank = data.draw(st.integers(1, everything.size))
    wanted = int(np.sort(everything)[-rank])
    n_above = int(np.count_nonzero(everything > wanted))

    dtype = groups[0].base.dtype
    which = code(dtype)
    shift = data.draw(shifts(dtype))
    arrays = [(table.put(g.base, shift), table.put(g.experts[0], shift)) for g in groups]
    work = table.empty(table.size("selection_bytes", capacity))
    result, floor = table.empty(c.sizeof(cuda_table.Selected)), table.empty(4)
    table("begin_selection", work.address, capacity, rank, None)
    for digit in range(3):
        for (base, expert), part in zip(arrays, parts, strict=True):
            origin = base.address if with_base else None
            table(
                "count_digit",
                work.address,
                digit,
                origin,
                expert.address,
                part.size,
                None,
                which=which,
            )
        table("pick_digit", work.address, digit, result.address, floor.address, None)
    selected = result.read_as(cuda_table.Selected)
    assert selected.bits == wanted
    assert selected.floor == wanted - 1 == int(floor.read(np.int32, 1)[0])
    assert selected.n_above == n_above
    assert selected.n_equal == np.count_nonzero(everything == wanted)

    left = rank - n_above
    cut_off = table.empty(c.sizeof(cuda_table.CutOff))
    table("begin_cut_off", result.address, rank, cut_off.address, None)
    for (base, expert), part in zip(arrays, parts, strict=True):
        scratch = table.empty(table.size("cut_off_bytes", part.size))
        table(
            "cut_off",
            scratch.address,
            result.address,
            base.address if with_base else None,
            expert.address,
            part.size,
            cut_off.address,
            None,
            which=which,
        )
        found = cut_off.read_as(cuda_table.CutOff)
        equal = np.flatnonzero(part == wanted)
        if left == 0:
            assert (found.left, found.count) == (0, 0)
        elif left > equal.size:
            left -= equal.size
            assert (found.left, found.count) == (left, part.size)
        else:
            assert (found.left, found.count) == (0, int(equal[left - 1]) + 1)
            left = 0
