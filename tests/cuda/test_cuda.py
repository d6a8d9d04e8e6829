"""The CUDA kernels give the bits of the reference: on a device, and emulated on the processor.

The emulator (tests/emulator) runs the kernels' own sources, with every thread and every block in
turn. It holds the arithmetic, the indexing, the tails, the alignment of loads and the reductions to
the specification. What it cannot show: races between threads or blocks, what the memory model
allows to be seen late, what the device's compiler makes of the sources, and speed. Those need a
device: ``pytest -m cuda`` runs the same tests there.
"""

from __future__ import annotations

import ctypes as c
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bench.cuda
import bench.support.harness
from tallies import _core, cuda
from tallies.engine.codes import (
    BLEND_CODES,
    GATE_CODES,
    INFINITY_BITS,
    KEEP_ALL,
    KEEP_NONE,
    VOTE_CODES,
)
from tallies.spec.rules import Blend, Gate, Vote
from tests.reference import masks as masks_reference
from tests.reference.blend import disjoint_merge
from tests.reference.dtype import narrow, widen
from tests.reference.elect import elect_signs
from tests.reference.masks import pack_bits, unpack_bits
from tests.reference.select import magnitude_bits
from tests.reference.sums import entries, in_order_sum
from tests.reference.task_arithmetic import add_to_base
from tests.support import cuda_table, strategies
from tests.support.cuda_table import RULES, CudaTable, Memory, floats, ints, pointers
from tests.support.everywhere import assert_same_bits
from tests.support.strategies import DTYPES, KERNEL_DTYPES, Group

ROOT = Path(__file__).parents[2]
Array = npt.NDArray[Any]

# The library lives as long as the tests, and every call of it clears what it needs.
settings.register_profile(
    "cuda", settings.get_profile("tallies"), suppress_health_check=[HealthCheck.too_slow]
)
examples = settings(settings.get_profile("cuda"), max_examples=40)


@pytest.fixture(scope="module")
def emulated(emulator: Path) -> Path:
    return emulator / "libcuda_emulated.so"


@pytest.fixture(scope="module", params=["emulated", pytest.param("device", marks=pytest.mark.cuda)])
def table(request: pytest.FixtureRequest) -> CudaTable:
    if request.param == "emulated":
        return CudaTable(request.getfixturevalue("emulated"))
    problem = cuda.problem()
    if problem is not None:
        pytest.skip(problem)
    return CudaTable(Path(_core.__file__).parent / "_cuda.so")


# Inputs


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


def assert_untouched(memory: Memory, array: Array) -> None:
    assert memory.read(np.uint8, array.nbytes).tobytes() == array.tobytes()


# The fused combine


def deltas_of(group: Group, base: Array | None) -> Array:
    wide = np.stack([widen(expert) for expert in group.experts])
    return wide if base is None else wide - widen(base)


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
            merged = total / np.float32(divisor) if blend == "mean" else total
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

    if vote != "given" and blend != "mean" and not is_cut:
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


# Conversions


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


# Packed masks


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
    """What `largest` must hold: NaN is one magnitude, above infinity."""
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


# Sums


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


# Selection


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


# The number of blocks, and what finds the library


def test_results_do_not_depend_on_the_size_of_the_device(emulated: Path) -> None:
    table = CudaTable(emulated)
    rng = np.random.default_rng(0)
    x = rng.normal(size=100_003).astype(np.float32)
    there = table.put(x)

    def compute() -> list[bytes]:
        mask, lanes = table.empty(x.size // 8 + 1), table.empty(8 * 8 * 49)
        work, result = table.empty(table.size("selection_bytes", 50_000)), table.empty(24)
        table("magnitude_mask", there.address, 0x3F000000, None, mask.address, x.size, None)
        table("sum_magnitudes", there.address, x.size, lanes.address, None)
        table("begin_selection", work.address, 50_000, 7_000, None)
        for digit in range(3):
            table("count_digit", work.address, digit, None, there.address, x.size, None)
            table("pick_digit", work.address, digit, result.address, None, None)
        sizes = ((mask, x.size // 8 + 1), (lanes, 8 * 8 * 49), (result, 24))
        return [memory.read(np.uint8, n).tobytes() for memory, n in sizes]

    results = []
    for n_processors in (1, 2, 3, 50):
        table.library.emulator_set_processors(n_processors)
        results.append(compute())
    table.library.emulator_set_processors(1)
    assert results == [results[0]] * len(results)


def test_the_benchmark_runs_and_checks(
    emulated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bench.harness, "RESULTS", tmp_path)
    arguments = ["--library", str(emulated), "--elements", "16384", "--repeat", "1"]
    bench.cuda.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and lines[0].startswith("kernel") and lines[1].startswith("copy")
    (result,) = tmp_path.glob("cuda-emulator-*.json")
    assert len(json.loads(result.read_text())["rows"]) == 11


MERGE = """
import ctypes, json, os, sys
from pathlib import Path
import ml_dtypes, numpy as np
from safetensors.numpy import save_file
from tallies import _core, merge

rng = np.random.default_rng(0)
base = {
    "f32": rng.normal(size=(300, 301)).astype(np.float32),
    "bf16": rng.normal(size=100_001).astype(ml_dtypes.bfloat16),
    "small": rng.normal(size=10).astype(np.float16),
}
for model in ("base", "a", "b"):
    tuned = {
        name: (x.astype(np.float32) + 0.01 * rng.integers(-2, 3, x.shape) * (model != "base"))
        for name, x in base.items()
    }
    Path(model).mkdir()
    save_file({name: x.astype(base[name].dtype) for name, x in tuned.items()},
              f"{model}/model.safetensors")
assert _core.link_rate() > 0 and _core.merge_rate(1, 1, 3, 2) > 0
_core.link_rate = lambda: float(sys.argv[1])
_core.merge_rate = lambda *_: 1e9
library = ctypes.CDLL(os.environ["TALLIES_CUDA_LIBRARY"])
for method, parameters in (
    ("ties", {"density": 0.3}),
    ("ties", {"density": 0.3, "scope": "tensor", "equal": "first"}),
    ("task_arithmetic", {}),
):
    recipe = {
        "merge_method": method,
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": parameters,
    }
    written = []
    for device in ("cpu", "cuda"):
        before = library.emulator_launches()
        report = merge(recipe, device, device=device, max_vram="8MiB", threads=3, overwrite=True)
        written.append((Path(device) / "model.safetensors").read_bytes())
        print(device, library.emulator_launches() > before, report.warnings)
    assert written[0] == written[1], method
"""


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ("4e9", "cuda True []"),
        (
            "2e9",
            "cuda False ['--device cuda: merged on the processor instead: it gets its inputs at "
            "2 GB/s, and 3 threads of the processor merge them at up to 3 GB/s']",
        ),
    ],
)
def test_a_merge_on_a_device_writes_the_same_bytes(
    emulated: Path, tmp_path: Path, link: str, says: str
) -> None:
    env = {**os.environ, "TALLIES_CUDA_LIBRARY": str(emulated)}
    done = subprocess.run(
        [sys.executable, "-c", MERGE, link],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[::2] == ["cpu False []"] * 3
    assert lines[1::2] == [says] * 3


def test_the_library_exports_its_table_alone() -> None:
    library = Path(_core.__file__).parent / "_cuda.so"
    if not library.exists():
        pytest.skip("no nvcc where the package was built")
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    )
    assert [line.split()[-1] for line in listed.stdout.splitlines()] == ["tallies_cuda_table"]


def in_fresh_python(library: str, code: str) -> str:
    env = {**os.environ, "TALLIES_CUDA_LIBRARY": library}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    return done.stdout.strip()


def say(library: str | Path) -> str:
    code = "from tallies import cuda; print(cuda.problem(), [d.name for d in cuda.devices()])"
    return in_fresh_python(str(library), code)


def test_the_emulated_device_is_found(emulated: Path) -> None:
    assert say(emulated) == "None ['emulator']"


def test_why_there_is_no_device_is_one_sentence(tmp_path: Path) -> None:
    missing = say(tmp_path / "_cuda.so")
    assert missing == (
        "no CUDA kernels in this build (no _cuda.so); build it where nvcc is, with "
        "TALLIES_CUDA=ON []"
    )
    (tmp_path / "broken.so").write_bytes(b"not a library")
    assert say(tmp_path / "broken.so").startswith("the CUDA kernels do not load: ")
    other = say(_core.__file__)
    assert other.endswith("is of another version of tallies; install both together []")
