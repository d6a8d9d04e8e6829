"""Python's words in the numbers that the native module takes."""

from __future__ import annotations

from typing import Final

from ..spec.rules import Blend, Gate, Rule, Vote, Zero

PACKED_BITS: Final = -1
"""Stands for a dtype where an array is a packed mask."""

GATE_CODES: Final = {
    Gate.ALL: 0,
    Gate.MAGNITUDE: 1,
    Gate.ABOVE: 1,
    Gate.SPREAD: 2,
    Gate.SCORE: 3,
    Gate.RANDOM: 4,
}

STAGED: Final = (Gate.RANDOM, Gate.RANK, Gate.BAND)
"""Gates that have a ``StageRule`` for each expert."""

VOTE_CODES: Final = {
    Vote.NONE: 0,
    Vote.SUM: 1,
    Vote.COUNT: 2,
    Vote.UNWEIGHTED_SUM: 4,
    Vote.UNWEIGHTED_COUNT: 5,
}
BLEND_CODES: Final = {
    Blend.SUM: 0,
    Blend.MEAN: 1,
    Blend.SUM_OF_AGREEING: 2,
    Blend.MEAN_OF_AGREEING: 3,
    Blend.WEIGHTED_MEAN_OF_AGREEING: 4,
    Blend.LARGEST_AGREEING: 5,
    Blend.CLAMPED_MEAN_OF_AGREEING: 6,
    Blend.ALONE_OR_MEAN: 7,
    Blend.SCORE_WEIGHTED_MEAN: 8,
}

MEASURE_CODES: Final = {"magnitude": 0, "spread": 1, "score": 2, "negative_score": 3, "drawn": 4}
"""What a selection ranks, as ``tallies::Measure``."""

COMPANY_CODES: Final = {"sum": 0, "signs": 1}
"""What entries agree with in a score, as ``tallies::Company``."""

ZERO_SIGNS: Final = {Zero.POSITIVE: 1, Zero.NEGATIVE: -1, Zero.DROP: 0, Zero.MAJORITY: -1}
"""The sign of a vote of exactly zero; of the majority, what it is when that is zero as well."""


def rule_codes(rule: Rule) -> tuple[int, int, int]:
    """Gate, vote and blend; behind a stage all entries pass, by a gate that is compiled."""
    if combine_stage(rule):
        gate = Gate.ALL if rule.vote is Vote.NONE else Gate.MAGNITUDE
    else:
        gate = rule.gate
    return GATE_CODES[gate], VOTE_CODES[rule.vote], BLEND_CODES[rule.blend]


def stage_code(rule: Rule) -> int:
    """How a rule's gate changes the deltas by itself, as ``tallies::Stage``."""
    if rule.gate is Gate.BAND:
        return 4 if rule.scope == "row" else 3
    return {Gate.RANDOM: 1, Gate.RANK: 2}.get(rule.gate, 0)


def combine_stage(rule: Rule) -> int:
    """The same before the deltas are blended: what is drawn at random is drawn in the blend."""
    return 0 if rule.gate is Gate.RANDOM else stage_code(rule)


CERTAIN: Final = 1 << 30
"""A probability of 1, ``tallies::kCertain``."""

NAN_BITS: Final = 0x7F800001
"""What every NaN ranks as among magnitudes."""

MAX_EXPERTS: Final = 256
"""Experts in one call, ``tallies::kMaxExperts``."""

INFINITY_BITS: Final = 0x7F800000
"""Of float32; as magnitudes, all NaN lie above it."""

KEEP_ALL: Final = -1
"""The floor below every magnitude: entries with bits(|x|) above a floor stay."""

KEEP_NONE: Final = 0x7FFFFFFF
"""The floor above every magnitude."""
