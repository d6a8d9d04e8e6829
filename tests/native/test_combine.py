"""All instruction sets combine experts to the bits of the reference, rule by rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallies import InputError, _core
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
from tests.reference.dtype import narrow, widen
from tests.reference.elect import elect_signs
from tests.reference.select import magnitude_bits
from tests.reference.sums import entries, in_order_sum
from tests.reference.task_arithmetic import add_to_base
from tests.support import strategies
from tests.support.conversions import code
from tests.support.everywhere import Array, assert_everywhere
from tests.support.strategies import KERNEL_DTYPES, Group

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
    """Draw floors of nothing, of everything, and of magnitudes between."""
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
            # A trimmed entry takes no part, not even as an infinite weight times zero.
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
