"""All instruction sets measure alike: counts of a survey, fingerprints, inner products."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tallies import _core
from tallies.engine.codes import INFINITY_BITS
from tests.reference.dtype import widen
from tests.reference.select import magnitude_bits
from tests.support import strategies
from tests.support.conversions import code
from tests.support.everywhere import assert_same_bits, on_every_target
from tests.support.strategies import KERNEL_DTYPES, Group


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
