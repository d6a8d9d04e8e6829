"""All instruction sets give the same bits: conversions, fused combine, survey, fingerprint, dot."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies import InputError, _core, cpu
from tallies.engine.codes import (
    BLEND_CODES,
    GATE_CODES,
    INFINITY_BITS,
    KEEP_ALL,
    KEEP_NONE,
    VOTE_CODES,
)
from tallies.spec.dtypes import DTYPE_BYTES, DTYPE_CODES, DTYPE_OF_ARRAY
from tallies.spec.rules import Blend, Gate, Vote
from tests.reference.blend import disjoint_merge
from tests.reference.dtype import narrow, widen
from tests.reference.elect import elect_signs
from tests.reference.select import magnitude_bits
from tests.reference.sums import entries, in_order_sum
from tests.reference.task_arithmetic import add_to_base
from tests.support import strategies
from tests.support.everywhere import assert_everywhere, assert_same_bits, on_every_target
from tests.support.strategies import DTYPES, KERNEL_DTYPES, Group

Array = npt.NDArray[Any]

SMALL_DTYPES = [dtype for dtype in DTYPES if dtype.itemsize <= 2]


def code(dtype: np.dtype[Any]) -> int:
    return DTYPE_CODES[DTYPE_OF_ARRAY[dtype.name]]


def native_widen(x: Array) -> npt.NDArray[np.float32]:
    out = np.empty(x.size, np.float32)
    _core.widen(x.ctypes.data, code(x.dtype), out.ctypes.data, x.size)
    return out


def native_narrow(x: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> Array:
    out = np.empty(x.size, dtype)
    _core.narrow(x.ctypes.data, out.ctypes.data, code(dtype), x.size)
    return out


def every_pattern(dtype: np.dtype[Any]) -> Array:
    """All bit patterns of a type of one or two bytes."""
    return np.arange(2 ** (8 * dtype.itemsize)).astype(f"u{dtype.itemsize}").view(dtype)


# Which types.


def test_types_have_the_same_numbers_on_both_sides() -> None:
    names = [name.removeprefix("F8_").lower() for name in DTYPE_CODES]
    assert list(DTYPE_CODES.values()) == list(range(len(names)))
    assert list(zip(names, DTYPE_BYTES, strict=True)) == _core.dtypes()


# Which instruction set.


def test_the_best_target_is_first_and_the_one_in_use_is_among_them() -> None:
    assert len(set(cpu.targets())) == len(cpu.targets()) >= 1
    assert cpu.targets()[-1] in ("baseline", "generic")
    assert cpu.target() in cpu.targets()


def test_set_target_is_in_use_until_the_next_one() -> None:
    assert on_every_target(cpu.target) == {target: target for target in cpu.targets()}


def test_an_unknown_target_is_refused_and_changes_nothing() -> None:
    before = cpu.target()
    with pytest.raises(InputError, match=f"'mmx' is not available .*: {cpu.targets()[0]}"):
        cpu.set_target("mmx")
    assert cpu.target() == before


def run_with_target(name: str | None) -> subprocess.CompletedProcess[str]:
    script = """
import numpy as np, sys
from tallies import InputError, cpu, kernels
x = (np.arange(2000, dtype=np.float32) % 37 - 18) / 7
try:
    merged = kernels.ties(x, [x * np.float32(1.1), x * x], density=0.3)
    print(cpu.target(), merged.tobytes().hex()[:400], cpu.target())
except InputError as error:
    sys.exit(str(error))
"""
    env = {key: value for key, value in os.environ.items() if key != "TALLIES_CPU_TARGET"}
    if name is not None:
        env["TALLIES_CPU_TARGET"] = name
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False
    )


def test_the_environment_forces_a_target_and_the_bits_are_the_same() -> None:
    results = set()
    for forced, used in [(None, cpu.targets()[0]), ("", cpu.targets()[0])] + [
        (target, target) for target in cpu.targets()
    ]:
        run = run_with_target(forced)
        assert run.returncode == 0, run.stderr
        first, merged, last = run.stdout.split()
        assert first == last == used
        results.add(merged)
    assert len(results) == 1


def test_an_unknown_target_in_the_environment_is_one_line() -> None:
    run = run_with_target("avx1024")
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "'avx1024' is not available on this machine; available: " in run.stderr
    assert all(target in run.stderr for target in cpu.targets())


# Conversions.


@pytest.mark.parametrize("dtype", SMALL_DTYPES, ids=str)
def test_widen_every_pattern(dtype: np.dtype[Any]) -> None:
    x = every_pattern(dtype)
    expected = widen(x)
    results = on_every_target(lambda: native_widen(x))
    numbers = ~np.isnan(expected)
    for wide in results.values():
        assert_same_bits(wide[numbers], expected[numbers])
        assert np.isnan(wide[~numbers]).all()
        # Even the bits of NaN, which are not specified, do not depend on the instruction set.
        assert_same_bits(wide, results[cpu.target()])


@pytest.mark.parametrize("dtype", SMALL_DTYPES, ids=str)
def test_narrow_undoes_widen_for_every_pattern(dtype: np.dtype[Any]) -> None:
    x = every_pattern(dtype)
    assert_everywhere(lambda: native_narrow(native_widen(x), dtype), narrow(x, dtype), x)


def rounding_boundaries(dtype: np.dtype[Any]) -> npt.NDArray[np.float32]:
    """Every finite value of a small type, half way to its neighbour, and next to that, signed."""
    patterns = every_pattern(dtype)
    positive = widen(patterns[: patterns.size // 2])
    grid = positive[np.isfinite(positive)].astype(np.float64)
    grid = np.append(grid, 2 * grid[-1] - grid[-2])  # where overflow starts
    half = ((grid[1:] + grid[:-1]) / 2).astype(np.float32)
    assert np.array_equal(half.astype(np.float64), (grid[1:] + grid[:-1]) / 2)
    below, above = np.nextafter(half, np.float32(0)), np.nextafter(half, np.float32(np.inf))
    with np.errstate(over="ignore"):
        all_of_them = np.concatenate([grid.astype(np.float32), half, below, above])
    return np.concatenate([all_of_them, -all_of_them])


def extremes() -> npt.NDArray[np.float32]:
    """Around zero and infinity, and NaN of several signs and payloads."""
    unsigned = [0, 1, 2, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000]
    unsigned += [0x7FFFFFFF, 0x33000000, 0x33000001, 0x477FEFFF, 0x477FF000, 0x43E80000]
    words = np.array(unsigned, np.uint32)
    return np.concatenate([words, words | np.uint32(1 << 31)]).view(np.float32)


@pytest.mark.parametrize("dtype", SMALL_DTYPES, ids=str)
def test_narrow_around_every_rounding_boundary(dtype: np.dtype[Any]) -> None:
    x = np.concatenate([rounding_boundaries(dtype), extremes()])
    assert_everywhere(lambda: native_narrow(x, dtype), narrow(x, dtype), x)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float64)], ids=str)
def test_narrow_to_a_wide_type_changes_nan_alone(dtype: np.dtype[Any]) -> None:
    noise = np.frombuffer(np.random.default_rng(0).bytes(160_000), np.float32)
    x = np.concatenate([extremes(), noise])
    assert_everywhere(lambda: native_narrow(x, dtype), narrow(x, dtype), x)


def test_widen_from_float64_rounds_once_to_even() -> None:
    rng = np.random.default_rng(1)
    words = rng.integers(0, 2**31, 20_000, np.uint32)
    with np.errstate(invalid="ignore"):
        low = words.view(np.float32).astype(np.float64)
        high = (words + np.uint32(1)).view(np.float32).astype(np.float64)
        half = (low + high) / 2
        x = np.concatenate([half, np.nextafter(half, 0), np.nextafter(half, np.inf), -half])
    patterns = rng.integers(0, 2**64 - 1, 20_000, np.uint64).view(np.float64)
    edges = [0.0, -0.0, 5e-324, 1e-46, 7e-46, 7.1e-46, 3.4028235677973366e38, 3.5e38, 1e308]
    x = np.concatenate([x, patterns, np.array([*edges, np.inf, -np.inf])])
    numbers = ~np.isnan(x)
    results = on_every_target(lambda: native_widen(x))
    for wide in results.values():
        assert_same_bits(wide[numbers], widen(x[numbers]))
        assert np.isnan(wide[~numbers]).all()
        assert_same_bits(wide, results[cpu.target()])


@given(st.data(), strategies.dtypes())
def test_conversions_of_every_length(data: st.DataObject, dtype: np.dtype[Any]) -> None:
    x = data.draw(strategies.arrays(np.float32))
    assert_everywhere(lambda: native_narrow(x, dtype), narrow(x, dtype), x)
    y = data.draw(strategies.arrays(dtype, nonfinite=False))
    assert_everywhere(lambda: native_widen(y), widen(y), y)


# The fused combine, rule by rule.

ELECTED = (
    Blend.SUM_OF_AGREEING,
    Blend.MEAN_OF_AGREEING,
    Blend.WEIGHTED_MEAN_OF_AGREEING,
    Blend.LARGEST_AGREEING,
)
BLEND_NAMES = dict(zip(ELECTED, ("sum", "mean", "weighted_mean", "max"), strict=True))
RULES = [
    (Gate.ALL, Vote.NONE, Blend.SUM),
    (Gate.MAGNITUDE, Vote.NONE, Blend.SUM),
    *((Gate.MAGNITUDE, vote, blend) for vote in (Vote.SUM, Vote.COUNT) for blend in ELECTED),
]


def floors() -> st.SearchStrategy[int]:
    """Of nothing, everything, and magnitudes between."""
    some = st.floats(0, 2, width=32).map(lambda x: int(np.float32(x).view(np.int32)))
    return some | st.sampled_from([KEEP_ALL, 0, INFINITY_BITS - 1, INFINITY_BITS, KEEP_NONE])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(word.value for word in rule))
@given(st.sampled_from(KERNEL_DTYPES).flatmap(strategies.groups), strategies.scales(), st.data())
def test_combine(
    rule: tuple[Gate, Vote, Blend], group: Group, scale: float, data: st.DataObject
) -> None:
    gate, vote, blend = rule
    n = len(group.experts)
    weights = data.draw(strategies.weights(n)) or [1.0] * n
    limits = data.draw(st.lists(floors(), min_size=n, max_size=n))
    zero_sign = data.draw(st.sampled_from([-1, 0, 1]))
    base = data.draw(st.sampled_from([None, group.base]))

    with np.errstate(all="ignore"):
        origin = np.zeros(group.base.size, np.float32) if base is None else widen(base)
        deltas = np.stack([widen(x) - origin for x in group.experts])
        if base is None:
            deltas = np.stack([widen(x) for x in group.experts])
        kept = magnitude_bits(deltas) > np.array(limits).reshape(-1, 1)
        # Every NaN is one magnitude to the survey, and stays unless nothing does.
        kept |= np.isnan(deltas) & (np.array(limits) < KEEP_NONE).reshape(-1, 1)
        if gate is Gate.MAGNITUDE:
            # What is trimmed takes no part, not even as an infinite weight times zero.
            deltas = np.where(kept, deltas, np.float32(0))
        if vote is Vote.NONE:
            merged = in_order_sum(entries(deltas, weights))
        else:
            policy = {1: "positive", -1: "negative", 0: "drop"}[zero_sign]
            signs = elect_signs(deltas, weights, vote.value, policy)
            merged = disjoint_merge(deltas, signs, weights, BLEND_NAMES[blend])
        if base is None:
            expected = narrow(np.float32(scale) * merged, group.base.dtype)
        else:
            expected = add_to_base(base, scale, merged)

    def compute() -> Array:
        out = np.empty_like(group.base)
        _core.combine(
            code(group.base.dtype),
            GATE_CODES[gate],
            VOTE_CODES[vote],
            BLEND_CODES[blend],
            0 if base is None else base.ctypes.data,
            [x.ctypes.data for x in group.experts],
            weights,
            limits,
            scale,
            zero_sign,
            out.ctypes.data,
            out.size,
        )
        return out

    assert_everywhere(compute, expected, group.base, *group.experts)


# What a pass learns.


@given(
    st.sampled_from(KERNEL_DTYPES).flatmap(strategies.groups),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_survey_counts_at_the_ends_and_lists_between(
    group: Group, with_base: bool, is_dense: bool, data: st.DataObject
) -> None:
    base, expert = group.base, group.experts[0]
    with np.errstate(all="ignore"):
        delta = widen(expert) - widen(base) if with_base else widen(expert)
    ranks = np.minimum(magnitude_bits(delta), INFINITY_BITS + 1).astype(np.int64)
    own = [int(rank) for rank in ranks[:4]]
    ends = st.sampled_from([0, 1, INFINITY_BITS, INFINITY_BITS + 1, *own])
    ends |= st.integers(0, INFINITY_BITS + 1)
    low, high = sorted((data.draw(ends), data.draw(ends)))
    inside = np.sort(ranks[(ranks > low) & (ranks < high)]).tolist()
    counts = [int(np.count_nonzero(ranks >= low)), int(np.count_nonzero(ranks > low))]
    counts += [int(np.count_nonzero(ranks >= high)), int(np.count_nonzero(ranks > high))]

    def compute() -> list[int]:
        # 16 words past the list may be overwritten (tallies::kInteriorSlack).
        listed = np.zeros(expert.size + 16, np.uint32)
        *found, n_inside = _core.survey(
            code(expert.dtype),
            base.ctypes.data if with_base else 0,
            expert.ctypes.data,
            expert.size,
            low,
            high,
            listed.ctypes.data,
            is_dense,
        )
        return [*found, *np.sort(listed[:n_inside]).tolist()]

    for found in on_every_target(compute).values():
        assert found == counts + inside


MASK64 = 2**64 - 1


def fingerprint(content: bytes, first: int = 0) -> list[int]:
    """The definition: eight sums over stripes of eight words, products keyed by position."""
    padded = content + bytes(-len(content) % 64)
    sums = [0] * 8
    for at in range(0, len(padded), 64):
        for lane in range(8):
            word = int.from_bytes(padded[at + 8 * lane : at + 8 * lane + 8], "little")
            stripe = (first + at) // 64
            key = stripe * 0xBF58476D1CE4E5B9 + (lane + 1) * 0x9E3779B97F4A7C15 & MASK64
            mixed = word ^ key
            rotated = (word << 1 | word >> 63) & MASK64
            sums[lane] += (mixed & 0xFFFFFFFF) * (mixed >> 32) + rotated
    return [total & MASK64 for total in sums]


@given(st.binary(max_size=700), st.integers(0, 2**40))
def test_fingerprint(content: bytes, stripe: int) -> None:
    data = np.frombuffer(content, np.uint8)
    results = on_every_target(lambda: _core.fingerprint(data.ctypes.data, data.size, 64 * stripe))
    for lanes in results.values():
        assert lanes == fingerprint(content, 64 * stripe)


@given(st.binary(max_size=700), st.integers(0, 10))
def test_fingerprint_of_two_parts_adds_up_to_that_of_the_whole(content: bytes, cut: int) -> None:
    data = np.frombuffer(content, np.uint8)
    middle = min(64 * cut, data.size // 64 * 64)
    head = _core.fingerprint(data.ctypes.data, middle, 0)
    tail = _core.fingerprint(data.ctypes.data + middle, data.size - middle, middle)
    whole = _core.fingerprint(data.ctypes.data, data.size, 0)
    assert [(a + b) & MASK64 for a, b in zip(head, tail, strict=True)] == whole


@given(strategies.groups(min_experts=2, max_experts=2))
def test_dot_folds_eight_sums(group: Group) -> None:
    a, b = group.experts
    with np.errstate(all="ignore"):
        products = np.zeros(-(-a.size // 8) * 8)
        products[: a.size] = a.astype(np.float64) * b.astype(np.float64)
        lanes = np.zeros(8)
        for row in products.reshape(-1, 8):
            lanes = lanes + row
        pairs = lanes[:4] + lanes[4:]
        expected = float((pairs[0] + pairs[2]) + (pairs[1] + pairs[3]))
    if np.isnan(expected):
        expected = float("nan")
    results = on_every_target(lambda: np.float64(_core.dot(a.ctypes.data, b.ctypes.data, a.size)))
    for found in results.values():
        assert_same_bits(found, np.float64(expected))


@pytest.mark.parametrize("gate", [Gate.VARIANCE, Gate.SCORE, Gate.RANDOM])
def test_a_rule_that_a_call_has_no_numbers_for_is_refused(gate: Gate) -> None:
    vote, blend = {
        Gate.VARIANCE: (Vote.UNWEIGHTED_SUM, Blend.CLAMPED_MEAN_OF_AGREEING),
        Gate.SCORE: (Vote.NONE, Blend.SCORE_WEIGHTED_MEAN),
        Gate.RANDOM: (Vote.NONE, Blend.SUM),
    }[gate]
    x = np.zeros(3, np.float32)
    codes = (GATE_CODES[gate], VOTE_CODES[vote], BLEND_CODES[blend])
    with pytest.raises(InputError, match="this rule needs a survey, draws or signs"):
        _core.combine(
            0, *codes, x.ctypes.data, [x.ctypes.data], [1.0], [-1], 1.0, 1, x.ctypes.data, x.size
        )
