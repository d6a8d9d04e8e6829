"""Packed masks against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies import kernels
from tests.reference import masks as reference
from tests.reference.dtype import narrow
from tests.support import strategies
from tests.support.everywhere import assert_everywhere, assert_same_bits
from tests.support.kernel_arrays import arranged, f32, groups
from tests.support.strategies import Group


@given(groups(max_experts=2), st.floats(0, 3, width=32) | st.sampled_from([0.1, 1e-46, 3e38]))
def test_tall_mask(group: Group, lam: float) -> None:
    x, m = group.experts[0], group.experts[-1].astype(np.float32)
    expected = reference.tall_mask(x, m, lam)
    assert_everywhere(lambda: kernels.tall_mask(x, m, lam), expected, x, m)


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0, 6.0])
def test_tall_mask_is_strict_and_compares_task_vectors(lam: float) -> None:
    x, m = f32(0, 1, 0, np.nan, 1), f32(0, 1, 1, 1, np.nan)
    assert kernels.unpack_bits(kernels.tall_mask(x, m, lam), 5).tolist() == [
        False, True, False, False, False,
    ]  # fmt: skip
    assert kernels.tall_mask(f32(0.1), f32(1), 0.4).tolist() == [0]


@given(strategies.sizes(max_size=300), st.data())
def test_consensus_mask(n: int, data: st.DataObject) -> None:
    n_masks = data.draw(st.integers(1, 9))
    n_bytes = (n + 7) // 8
    raw = data.draw(st.binary(min_size=n_masks * n_bytes, max_size=n_masks * n_bytes))
    # Bits past the n-th are set as well: they must not come through.
    packed = np.frombuffer(raw, np.uint8).reshape(n_masks, n_bytes)
    k = data.draw(st.integers(0, n_masks + 1))
    expected = reference.consensus_mask(list(packed), n, k)
    assert_everywhere(lambda: kernels.consensus_mask(packed, n, k), expected, packed)
    assert_everywhere(lambda: kernels.consensus_mask(list(packed), n, k), expected)


@given(strategies.sizes(max_size=300), st.data())
def test_pack_bits_and_back(n: int, data: st.DataObject) -> None:
    mask = np.frombuffer(data.draw(st.binary(min_size=n, max_size=n)), np.uint8) % 2 == 1
    arrangement = data.draw(arranged(mask))
    packed = kernels.pack_bits(arrangement)
    assert_same_bits(packed, reference.pack_bits(mask))
    unpacked = kernels.unpack_bits(packed, n)
    assert_same_bits(unpacked, mask)
    assert unpacked.flags.writeable


@given(groups(max_experts=1), strategies.scales(), st.data())
def test_apply_mask(group: Group, scale: float, data: st.DataObject) -> None:
    base, shared = data.draw(arranged(group.base)), group.experts[0]
    shared = shared.astype(np.float32).reshape(base.shape)
    n_bytes = (base.size + 7) // 8
    packed = np.frombuffer(data.draw(st.binary(min_size=n_bytes, max_size=n_bytes)), np.uint8)
    expected = reference.apply_mask(base, shared, packed, scale)
    assert_everywhere(
        lambda: kernels.apply_mask(base, shared, packed, scale), expected, base, shared, packed
    )


@given(groups(max_experts=1))
def test_a_mask_that_leaves_nothing_out_gives_the_expert_back(group: Group) -> None:
    base, expert = (x.astype(np.float32) for x in (group.base, group.experts[0]))
    with np.errstate(all="ignore"):
        shared = expert - base
        expected = narrow(base + shared, np.float32)
    full = kernels.magnitude_mask(base, 0)
    assert_same_bits(kernels.apply_mask(base, shared, full), expected)
