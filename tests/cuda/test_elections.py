"""Elections on the device, and merges that are repeated for the majority."""

from __future__ import annotations

import ctypes as c

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies.engine.codes import INFINITY_BITS, KEEP_ALL
from tests.reference.dtype import widen
from tests.reference.elect import elect_signs
from tests.support import cuda_table, strategies
from tests.support.cuda_inputs import KERNEL_GROUPS, code, examples, grown_group, lengths, shifts
from tests.support.cuda_table import RULES, CudaTable, floats, ints, pointers
from tests.support.everywhere import assert_same_bits
from tests.support.strategies import Group


@pytest.mark.parametrize(
    ("counted", "is_done"),
    [((1, 0, 1), True), ((1, 0, 0), False), ((0, 0, 1), False), ((-1, 0, 1), False)],
)
def test_a_merge_is_repeated_for_the_majority(
    table: CudaTable, counted: tuple[int, int, int], is_done: bool
) -> None:
    x, y = np.float32([2, 1, -3]), np.float32([-2, 4, 1])
    rows = [table.put(x), table.put(y)]
    tallies = [table.put(np.array([*before, 0], np.int64)) for before in (counted, (0, 0, 0))]
    experts, weights, limits = (
        pointers([memory.address for memory in rows]),
        floats([1.0, 1.0]),
        ints([KEEP_ALL] * 2),
    )
    out, signs = table.put(np.full(3, 9, np.float32)), table.put(np.full(3, 9, np.int8))
    more = cuda_table.CombineThere(None, None, tallies[0].address)
    args = cuda_table.CombineArgs(
        None,
        c.addressof(experts),
        c.addressof(weights),
        c.addressof(limits),
        2,
        1.0,
        1.0,
        1,
        None,
        INFINITY_BITS,
        out.address,
        3,
    )
    rule = RULES.index(("magnitude", "sum", "mean_of_agreeing"))
    there = c.addressof(more)
    table("combine", c.addressof(args), there, tallies[1].address, None, which=rule)
    again, tally = tallies[0].address, tallies[1].address
    table(
        "elect_signs",
        c.addressof(experts),
        c.addressof(weights),
        2,
        1,
        signs.address,
        3,
        again,
        tally,
        None,
    )
    assert out.read(np.float32, 3).tolist() == ([2, 2.5, -3] if is_done else [9, 9, 9])
    # An election counts no cancellations: the sum of the signs decides.
    assert signs.read(np.int8, 3).tolist() == ([1, 1, -1] if counted[0] > 0 else [9, 9, 9])


@pytest.mark.parametrize("vote", ["sum", "count"])
@examples
@given(KERNEL_GROUPS, lengths(), st.data())
def test_elect_signs(
    table: CudaTable, vote: str, group: Group, length: int, data: st.DataObject
) -> None:
    group = grown_group(group, length)
    deltas, n = np.stack([widen(x) for x in group.experts]), len(group.experts)
    weights = data.draw(strategies.weights(n)) or [1.0] * n
    zero_sign = data.draw(st.sampled_from([-1, 0, 1]))
    policy = {1: "positive", -1: "negative", 0: "drop"}[zero_sign]
    there = [table.put(x, data.draw(shifts(x.dtype))) for x in group.experts]
    out, tally = table.empty(length), table.zeros(32)
    rows, factors = pointers([memory.address for memory in there]), floats(weights)
    table(
        "elect_signs",
        c.addressof(rows),
        c.addressof(factors),
        n,
        zero_sign,
        out.address,
        length,
        None,
        tally.address,
        None,
        which=2 * code(group.base.dtype) + (vote == "count"),
    )
    with np.errstate(all="ignore"):
        assert_same_bits(out.read(np.int8, length), elect_signs(deltas, weights, vote, policy))
        elected = elect_signs(deltas, weights, vote, "drop").sum(dtype=np.int64)
    assert tally.read_as(cuda_table.CombineTally).sign_sum == int(elected)
