"""The fused combine of the device gives the bits of the reference."""

from __future__ import annotations

import ctypes as c

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies import _core
from tallies.engine.codes import (
    BLEND_CODES,
    GATE_CODES,
    INFINITY_BITS,
    KEEP_ALL,
    KEEP_NONE,
    VOTE_CODES,
)
from tallies.spec.rules import Blend, Gate, Vote
from tests.reference.blend import disjoint_merge
from tests.reference.combine import TOTALS
from tests.reference.dtype import narrow
from tests.reference.elect import elect_signs
from tests.reference.select import magnitude_bits
from tests.reference.sums import entries, in_order_sum
from tests.reference.task_arithmetic import add_to_base
from tests.support import cuda_table, strategies
from tests.support.cuda_inputs import (
    KERNEL_GROUPS,
    code,
    deltas_of,
    examples,
    floors,
    grown,
    grown_group,
    lengths,
    shifts,
)
from tests.support.cuda_table import RULES, Array, CudaTable, Memory, floats, ints, pointers
from tests.support.everywhere import assert_same_bits
from tests.support.strategies import Group


def assert_untouched(memory: Memory, array: Array) -> None:
    assert memory.read(np.uint8, array.nbytes).tobytes() == array.tobytes()


ON_DEVICE = [rule for rule in RULES if rule in _core.rules() or rule[1] == "given"]
"""The others judge an entry by all experts, and have no function in the table."""


@pytest.mark.parametrize("rule", ON_DEVICE, ids="-".join)
@examples
@given(KERNEL_GROUPS, strategies.scales(), lengths(), st.booleans(), st.data())
def test_combine(
    table: CudaTable,
    rule: tuple[str, str, str],
    group: Group,
    scale: float,
    length: int,
    floors_there: bool,
    data: st.DataObject,
) -> None:
    gate, vote, blend = rule
    group = grown_group(group, length)
    dtype, n = group.base.dtype, len(group.experts)
    weights = data.draw(strategies.weights(n)) or [1.0] * n
    zero_sign = data.draw(st.sampled_from([-1, 0, 1]))
    divisor = data.draw(st.sampled_from([1.0, 3.0, -0.7]))
    base = data.draw(st.sampled_from([None, group.base]))
    with np.errstate(all="ignore"):
        deltas = deltas_of(group, base)
    sizes = np.minimum(magnitude_bits(deltas), np.uint32(INFINITY_BITS + 1))
    own = st.sampled_from([int(size) - 1 for size in sizes.ravel()[:50]] or [0])
    limits = data.draw(st.lists(floors() | own, min_size=n, max_size=n))
    drawn = np.frombuffer(data.draw(st.binary(max_size=40)), np.uint8)
    signs = (grown(drawn, length) % 3).astype(np.int8) - np.int8(1)
    shift = data.draw(shifts(dtype))
    # Floors in device memory may be cut off, and an expert may have its own in the call.
    there = data.draw(st.lists(st.booleans(), min_size=n, max_size=n)) if floors_there else [False]
    there *= n // len(there)
    cuts = data.draw(st.lists(st.integers(0, length), min_size=n, max_size=n))
    is_cut = floors_there and data.draw(st.booleans())

    with np.errstate(all="ignore"):
        if gate == "magnitude":
            least = np.repeat(np.array(limits).reshape(-1, 1), length, axis=1)
            for e in range(n):
                if is_cut and there[e]:
                    least[e, cuts[e] :] += limits[e] < KEEP_NONE
            deltas = np.where(sizes > least, deltas, np.float32(0))
        ys = entries(deltas, weights)
        total = in_order_sum(ys)
        if vote == "none":
            merged = TOTALS[blend](deltas, weights)
            if blend.endswith("mean"):
                merged = merged / np.float32(divisor)
            elected = np.zeros(length, np.int8)
        else:
            drop = signs if vote == "given" else elect_signs(deltas, weights, vote, "drop")
            elected = np.where(np.isnan(total), 0, drop)
            policy = {1: "positive", -1: "negative", 0: "drop"}[zero_sign]
            used = signs if vote == "given" else elect_signs(deltas, weights, vote, policy)
            name = {"largest_agreeing": "max"}.get(blend, blend.removesuffix("_of_agreeing"))
            merged = disjoint_merge(deltas, used, weights, name)
        if base is None:
            expected = narrow(np.float32(scale) * merged, dtype)
        else:
            expected = add_to_base(base, scale, merged)
    conflict = (ys > 0).any(axis=0) & (ys < 0).any(axis=0) & ~np.isnan(total)
    conflict &= vote != "none"

    on_device = [table.put(x, shift) for x in group.experts]
    base_there = table.put(group.base, shift)
    signs_there = table.put(signs, shift)
    floors_on_device = table.put(np.array(limits, np.int32))
    cuts_on_device = table.put(np.array([(0, cut) for cut in cuts], np.uint64))
    more = cuda_table.CombineThere(
        floors_on_device.address, cuts_on_device.address if is_cut else None, None
    )
    out = table.empty(expected.nbytes, shift)
    tally = table.zeros(c.sizeof(cuda_table.CombineTally))
    experts, weight_array, limit_array = (
        pointers([memory.address for memory in on_device]),
        floats(weights),
        ints([cuda_table.FLOOR_THERE if t else x for t, x in zip(there, limits, strict=True)]),
    )
    overflow = {"float32": 0x7F800000, "bfloat16": 0x7F7F8000, "float16": 0x477FF000}[dtype.name]
    args = cuda_table.CombineArgs(
        None if base is None else base_there.address,
        c.addressof(experts),
        c.addressof(weight_array),
        c.addressof(limit_array),
        n,
        scale,
        divisor,
        zero_sign,
        signs_there.address,
        overflow,
        out.address,
        length,
    )
    table(
        "combine",
        c.addressof(args),
        c.addressof(more) if floors_there else None,
        tally.address,
        None,
        which=code(dtype) * len(RULES) + RULES.index(rule),
    )
    assert_same_bits(out.read(dtype, length), expected)
    counted = tally.read_as(cuda_table.CombineTally)
    assert counted.sign_sum == int(elected.sum(dtype=np.int64))
    assert counted.conflicts == np.count_nonzero(conflict)
    assert counted.cancellations == np.count_nonzero(conflict & (elected == 0))
    assert counted.overflow == (not np.isfinite(expected.astype(np.float32)).all())
    for memory, array in zip(on_device, group.experts, strict=True):
        assert_untouched(memory, array)

    if vote != "given" and not blend.endswith("mean") and not is_cut:
        on_cpu = np.empty_like(expected)
        _core.combine(
            code(dtype),
            GATE_CODES[Gate(gate)],
            VOTE_CODES[Vote(vote)],
            BLEND_CODES[Blend(blend)],
            0 if base is None else base.ctypes.data,
            [x.ctypes.data for x in group.experts],
            weights,
            limits,
            scale,
            zero_sign,
            on_cpu.ctypes.data,
            length,
        )
        assert_same_bits(out.read(dtype, length), on_cpu)


@examples
@given(st.lists(strategies.arrays(max_size=0), min_size=1, max_size=1), st.integers(5, 40))
def test_combine_of_many_experts(table: CudaTable, _: object, n: int) -> None:
    rng = np.random.default_rng(n)
    base = rng.normal(size=100).astype(np.float32)
    experts = [base + rng.normal(size=100).astype(np.float32) for _ in range(n)]
    there = [table.put(x) for x in [base, *experts]]
    out, tally = table.empty(base.nbytes), table.zeros(32)
    rows, weights, limits = (
        pointers([memory.address for memory in there[1:]]),
        floats([1.0] * n),
        ints([KEEP_ALL] * n),
    )
    args = cuda_table.CombineArgs(
        there[0].address,
        c.addressof(rows),
        c.addressof(weights),
        c.addressof(limits),
        n,
        0.5,
        1.0,
        0,
        None,
        INFINITY_BITS,
        out.address,
        base.size,
    )
    rule = RULES.index(("all", "none", "sum"))
    table("combine", c.addressof(args), None, tally.address, None, which=rule)
    merged = in_order_sum(np.stack(experts) - base)
    assert_same_bits(out.read(np.float32, base.size), add_to_base(base, 0.5, merged))
