"""Packed masks: written, counted, applied."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.dtype import narrow
from tests.reference.masks import (
    apply_mask,
    consensus_mask,
    magnitude_mask,
    pack_bits,
    tall_mask,
    unpack_bits,
)
from tests.support import strategies
from tests.support.bits import INF, NAN, bits, f32


def test_tall_mask_compares_task_vectors_not_weights() -> None:
    assert unpack_bits(tall_mask(f32(0.1), f32(1), 0.4), 1).tolist() == [False]


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0, 6.0])
def test_tall_mask_is_strict(lam: float) -> None:
    x, m = f32(0, 1, 0), f32(0, 1, 1)
    assert unpack_bits(tall_mask(x, m, lam), 3).tolist() == [False, True, False]


def test_magnitude_mask_includes_the_threshold_and_nan() -> None:
    x = f32(1, -2, 0, NAN, INF, -3)
    assert unpack_bits(magnitude_mask(x, 2), 6).tolist() == [False, True, False, True, True, True]
    assert (
        unpack_bits(magnitude_mask(x, NAN), 6).tolist() == [False, False, False, True] + [False] * 2
    )


def test_bits_are_packed_from_the_least_significant() -> None:
    assert pack_bits([1, 0, 0, 0, 0, 0, 0, 0, 0, 1]).tolist() == [1, 2]


def test_consensus_counts_masks_and_leaves_the_padding_clear() -> None:
    packed = [pack_bits([1, 1, 0]), pack_bits([1, 0, 0])]
    results = [consensus_mask(packed, 3, k).tolist() for k in range(4)]
    assert results == [[0b111], [0b011], [0b001], [0]]


@given(strategies.groups(min_experts=2, max_experts=2), st.floats(0, 2, width=32))
def test_tall_mask_element_by_element(group: strategies.Group, lam: float) -> None:
    x, m = group.experts
    with np.errstate(all="ignore"):
        expected = [
            abs(x[i]) > np.float32(np.float32(lam) * abs(np.float32(m[i] - x[i])))
            for i in range(x.size)
        ]
    packed = tall_mask(x, m, lam)
    assert packed.dtype == np.uint8
    assert packed.size == (x.size + 7) // 8
    assert [bool(packed[i // 8] >> (i % 8) & 1) for i in range(x.size)] == expected


@given(st.lists(st.booleans(), max_size=70))
def test_unpack_undoes_pack(mask: list[bool]) -> None:
    packed = pack_bits(mask)
    assert unpack_bits(packed, len(mask)).tolist() == mask
    assert sum(int(byte).bit_count() for byte in packed) == sum(mask)


@given(strategies.groups(ml_dtypes.bfloat16), strategies.scales(), st.data())
def test_apply_mask_adds_the_shared_vector_where_it_is_set(
    group: strategies.Group, scale: float, data: st.DataObject
) -> None:
    base, shared = group.base, group.experts[0]
    mask = data.draw(st.lists(st.booleans(), min_size=base.size, max_size=base.size))
    actual = apply_mask(base, shared, pack_bits(mask), scale)
    with np.errstate(all="ignore"):
        for i, chosen in enumerate(mask):
            added = np.float32(scale) * (np.float32(shared[i]) if chosen else np.float32(0))
            expected = narrow(np.float32(base[i]) + added, base.dtype)
            assert bits(actual[i : i + 1]) == bits(expected)
