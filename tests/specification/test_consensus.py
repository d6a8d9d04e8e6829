"""Consensus merges count the masks of each element."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import consensus, tall
from tests.reference.dtype import narrow, widen
from tests.reference.task_arithmetic import task_arithmetic
from tests.support import strategies
from tests.support.bits import Array, assert_same_bits, f32
from tests.support.task_masks import BF16, FEWER, LAMBDAS, is_set, trained


def test_consensus_needs_k_masks() -> None:
    """Element i is claimed by i of the three tasks, at lambda 0.4: 1 > 0.4 * |m - 1|."""
    base = {"w": f32(-0.0, 1, 1, 1), "frozen": f32(-0.0)}
    deltas = [f32(0, 1, 1, 1), f32(0, 0, 1, 1), f32(0, 0, 0, 1)]
    experts = [{**base, "w": base["w"] + delta} for delta in deltas]
    names = tall.trained_names(base, experts)
    expected = {
        0: [0, 2, 3, 4],
        1: [0, 2, 3, 4],
        2: [0, 1, 3, 4],
        3: [0, 1, 1, 4],
        4: [0, 1, 1, 1],
    }
    for k, values in expected.items():
        out = consensus.consensus_merge(base, experts, names, k=k)
        assert out["w"].tolist() == values
        assert not np.signbit(out["w"][0])
        assert_same_bits(out["frozen"], base["frozen"])
    half = consensus.consensus_merge(base, experts, names, k=2, scale=0.5)
    assert half["w"].tolist() == [0, 1, 2, 2.5]


@FEWER
@given(strategies.models(), strategies.scales(), st.sampled_from(["ta", "ties"]))
def test_consensus_at_its_ends(models: strategies.Models, scale: float, shared: str) -> None:
    names, tasks = trained(models)
    merged = tall.shared_vector(tasks, shared)
    n = len(tasks)

    def merge(k: int) -> dict[str, Array]:
        return consensus.consensus_merge(
            models.base, models.experts, names, shared, k=k, scale=scale
        )

    with np.errstate(all="ignore"):
        everything, nothing = merge(0), merge(n + 1)
        for name, tensor in models.base.items():
            if name not in names:
                assert_same_bits(everything[name], tensor)
                assert_same_bits(nothing[name], tensor)
                continue
            unchanged = widen(tensor) + np.float32(scale) * np.float32(0)
            assert_same_bits(nothing[name], narrow(unchanged, tensor.dtype))
            whole = widen(tensor) + np.float32(scale) * merged[name]
            assert_same_bits(everything[name], narrow(whole, tensor.dtype))
            if shared == "ta":
                experts = [expert[name] for expert in models.experts]
                added = task_arithmetic(tensor, experts, scale=scale)
                assert_same_bits(everything[name], added)


@FEWER
@given(strategies.models(), st.integers(0, 5), st.sampled_from(LAMBDAS))
def test_consensus_counts_masks_element_by_element(
    models: strategies.Models, k: int, lam: float
) -> None:
    names, tasks = trained(models)
    merged = tall.shared_vector(tasks)
    masks = tall.masks(tasks, merged, lam)
    with np.errstate(all="ignore"):
        out = consensus.consensus_merge(models.base, models.experts, names, lambdas=lam, k=k)
        for name in names:
            tensor = models.base[name]
            each = [is_set(bits, name, tensor.size) for bits in masks]
            claimed = np.array([sum(votes) >= k for votes in zip(*each, strict=True)], np.bool_)
            added = np.where(claimed.reshape(tensor.shape), merged[name], np.float32(0))
            assert_same_bits(out[name], narrow(widen(tensor) + added, tensor.dtype))


def test_consensus_from_masks_takes_any_shared_vector() -> None:
    base = {"w": f32(1, 1)}
    masks: list[tall.Masks] = [
        {"w": np.array([0b11], np.uint8)},
        {"w": np.array([0b10], np.uint8)},
    ]
    out = consensus.consensus(base, {"w": f32(2, 3).astype(BF16)}, masks)
    assert out["w"].tolist() == [1, 4]
