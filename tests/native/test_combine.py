"""All instruction sets combine experts to the bits of the reference, rule by rule."""

from __future__ import annotations

from collections.abc import Sequence

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


def _merged(
    rule: tuple[Gate, Vote, Blend],
    base: Array | None,
    group: Group,
    weights: Sequence[float],
    limits: Sequence[int],
    zero_sign: int,
) -> Array:
    """The merged task vector by the reference, in float32."""
    gate, vote, blend = rule
    deltas = np.stack([widen(x) for x in group.experts])
    if base is not None:
        deltas = np.stack([row - widen(base) for row in deltas])
    kept = magnitude_bits(deltas) > np.array(limits).reshape(-1, 1)
    # Every NaN is one magnitude to the survey, and stays unless nothing does.
    kept |= np.isnan(deltas) & (np.array(limits) < KEEP_NONE).reshape(-1, 1)
    if gate is Gate.MAGNITUDE:
        # A trimmed entry takes no part, not even as an infinite weight times zero.
        deltas = np.where(kept, deltas, np.float32(0))
    if vote is Vote.NONE:
        return in_order_sum(entries(deltas, weights))
    policy = {1: "positive", -1: "negative", 0: "drop"}[zero_sign]
    signs = elect_signs(deltas, weights, vote.value, policy)
    return disjoint_merge(deltas, signs, weights, BLEND_NAMES[blend])


def _result(base: Array | None, group: Group, scale: float, merged: Array) -> Array:
    if base is None:
        return narrow(np.float32(scale) * merged, group.base.dtype)
    return add_to_base(base, scale, merged)


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
        merged = _merged(rule, base, group, weights, limits, zero_sign)
        expected = _result(base, group, scale, merged)

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


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(word.value for word in rule))
@given(
    st.sampled_from(KERNEL_DTYPES).flatmap(strategies.groups),
    st.lists(strategies.scales(), min_size=2, max_size=5, unique=True),
    st.data(),
)
def test_several_scales(
    rule: tuple[Gate, Vote, Blend], group: Group, scales: list[float], data: st.DataObject
) -> None:
    """Candidates that differ in scale share gate, vote and blend, and each counts by itself."""
    gate, vote, blend = rule
    n, size = len(group.experts), group.base.size
    weights = data.draw(strategies.weights(n)) or [1.0] * n
    limits = data.draw(st.lists(floors(), min_size=n, max_size=n))
    zero_sign = data.draw(st.sampled_from([-1, 0, 1]))
    base = data.draw(st.sampled_from([None, group.base]))
    with np.errstate(all="ignore"):
        merged = _merged(rule, base, group, weights, limits, zero_sign)
        expected = np.stack([_result(base, group, scale, merged) for scale in scales])
    dtype = code(group.base.dtype)
    numbers = set()

    def combined(chosen: Sequence[float]) -> tuple[Array, list[_core.CandidateResult]]:
        out = np.empty((len(chosen), size), group.base.dtype)
        plan = _core.Plan(base is not None)
        inputs = [
            (-1, x.ctypes.data, dtype) for x in (*([] if base is None else [base]), *group.experts)
        ]
        plan.add_job(size, inputs, [(-1, row.ctypes.data, dtype) for row in out], apart=True)
        task = _core.CombineTask(
            job=0,
            candidates=[
                _core.Candidate(
                    weights=weights,
                    floors=limits,
                    cutoffs=[1 << 62] * n,
                    scale=scale,
                    zero_sign=zero_sign,
                )
                for scale in chosen
            ],
        )
        (result,) = plan.combine(
            tasks=[task],
            gate=GATE_CODES[gate],
            vote=VOTE_CODES[vote],
            blend=BLEND_CODES[blend],
            limits=_core.Limits(1, 1 << 16),
        )
        return out, list(result.candidates)

    def compute() -> Array:
        out, together = combined(scales)
        for scale, one in zip(scales, together, strict=True):
            _, (alone,) = combined([scale])
            for name in ("sign_sum", "conflicts", "cancellations", "overflow"):
                assert getattr(one, name) == getattr(alone, name)
            numbers.add((scale, one.sign_sum, one.conflicts, one.cancellations, one.overflow))
        return out

    assert_everywhere(compute, expected, group.base, *group.experts)
    assert len(numbers) == len(scales)


@pytest.mark.parametrize(
    "rule",
    [rule for rule in RULES if rule[1] is not Vote.NONE],
    ids=lambda rule: "-".join(word.value for word in rule),
)
@given(
    st.sampled_from(KERNEL_DTYPES).flatmap(strategies.groups),
    st.lists(strategies.scales(), min_size=1, max_size=3, unique=True),
    st.data(),
)
def test_both_signs_of_zero_votes(
    rule: tuple[Gate, Vote, Blend], group: Group, scales: list[float], data: st.DataObject
) -> None:
    """One call gives the results of either sign."""
    n, size = len(group.experts), group.base.size
    weights = data.draw(strategies.weights(n)) or [1.0] * n
    limits = data.draw(st.lists(floors(), min_size=n, max_size=n))
    zero_sign = data.draw(st.sampled_from([-1, 1]))
    base = data.draw(st.sampled_from([None, group.base]))
    with np.errstate(all="ignore"):
        merged = [
            _merged(rule, base, group, weights, limits, sign) for sign in (zero_sign, -zero_sign)
        ]
        expected = np.stack([_result(base, group, s, one) for one in merged for s in scales])

    def compute() -> Array:
        out = np.empty((2, len(scales), size), group.base.dtype)
        codes = (GATE_CODES[rule[0]], VOTE_CODES[rule[1]], BLEND_CODES[rule[2]])
        _core.combine_scales(
            code(group.base.dtype),
            *codes,
            0 if base is None else base.ctypes.data,
            [x.ctypes.data for x in group.experts],
            weights,
            limits,
            scales,
            zero_sign,
            [row.ctypes.data for row in out[0]],
            [row.ctypes.data for row in out[1]],
            size,
        )
        return out.reshape(2 * len(scales), size)

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
