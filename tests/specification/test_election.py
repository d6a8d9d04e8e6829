"""Sign elections and blends, one element at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.blend import disjoint_merge
from tests.reference.dtype import narrow
from tests.reference.elect import elect_signs
from tests.support import strategies
from tests.support.bits import NAN, assert_same_bits, f32


def test_nan_has_no_voice_in_the_vote() -> None:
    deltas = np.stack([f32(NAN, 1, -3, 1), f32(7, -1, -3, -1)])
    assert elect_signs(deltas).tolist() == [0, -1, -1, -1]
    assert elect_signs(deltas, vote="count").tolist() == [1, -1, -1, -1]


def vote_of(ys: list[np.float32], vote: str) -> np.float32:
    if vote == "count":
        return np.float32(sum(int(y > 0) - int(y < 0) for y in ys))
    total = np.float32(0)
    for y in ys:
        total = np.float32(total + y)
    return total


def blend_of(pairs: list[tuple[np.float32, np.float32]], sign: int, blend: str) -> np.float32:
    """The blend of one element from its (weight, entry) pairs."""
    if np.isnan(vote_of([y for _, y in pairs], "sum")):
        return np.float32(NAN)
    agreeing = [(w, y) for w, y in pairs if y * sign > 0]
    if not agreeing:
        return np.float32(0)
    total = vote_of([y for _, y in agreeing], "sum")
    if blend == "mean":
        return np.float32(total / np.float32(len(agreeing)))
    if blend == "weighted_mean":
        divisor = vote_of([w for w, _ in agreeing], "sum")
        return np.float32(total / divisor) if divisor != 0 else total
    if blend == "max":
        return max((y for _, y in agreeing), key=abs)
    return total


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(strategies.groups(max_size=40), st.data())
def test_election_and_blend_element_by_element(
    group: strategies.Group, data: st.DataObject
) -> None:
    deltas = np.stack(group.experts)
    weights = data.draw(strategies.weights(len(deltas)))
    vote = data.draw(st.sampled_from(["sum", "count"]))
    zero = data.draw(st.sampled_from(["majority", "positive", "negative", "drop"]))
    blend = data.draw(st.sampled_from(["mean", "sum", "max", "weighted_mean"]))
    factors = f32(*(weights or [1.0] * len(deltas)))
    elements = [
        [(w, np.float32(w * d)) for w, d in zip(factors, deltas[:, i], strict=True)]
        for i in range(deltas.shape[1])
    ]
    votes = [vote_of([y for _, y in pairs], vote) for pairs in elements]
    balance = sum(int(v > 0) - int(v < 0) for v in votes)
    policy = {"majority": 1 if balance > 0 else -1, "positive": 1, "negative": -1, "drop": 0}[zero]
    expected = [policy if v == 0 else 1 if v > 0 else -1 if v < 0 else 0 for v in votes]

    signs = elect_signs(deltas, weights, vote, zero)
    assert signs.dtype == np.int8
    assert signs.tolist() == expected
    merged = disjoint_merge(deltas, signs, weights, blend)
    blended = [blend_of(*pair, blend) for pair in zip(elements, expected, strict=True)]
    assert_same_bits(merged, narrow(f32(*blended), np.float32))
