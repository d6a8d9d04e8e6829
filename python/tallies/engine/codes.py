"""Turns choices into the numbers that native passes take."""

from __future__ import annotations

import enum
from typing import Final

from ..spec.rules import Agreement, Blend, Gate, Rule, Vote, Zero

PACKED_BITS: Final = -1
"""The code of a packed mask, in the place of a dtype."""

GATE_CODES: Final = {
    Gate.ALL: 0,
    Gate.MAGNITUDE: 1,
    Gate.ABOVE: 1,
    Gate.VARIANCE: 2,
    Gate.SCORE: 3,
    Gate.RANDOM: 4,
    Gate.IMPORTANCE: 0,
}

STAGED: Final = (Gate.RANDOM, Gate.RANK, Gate.BAND)
"""Gates that are a stage of each expert."""

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
    Blend.FUSED_SUM: 9,
    Blend.FUSED_MEAN: 10,
    Blend.LARGEST: 11,
    Blend.SWAPPED: 12,
}


class Measure(enum.IntEnum):
    """The quantity that a selection ranks, as ``tallies::Measure``."""

    MAGNITUDE = 0
    VARIANCE = 1
    SCORE = 2
    NEGATIVE_SCORE = 3
    DRAWN = 4


AGREEMENT_CODES: Final = {Agreement.SUM: 0, Agreement.SIGNS: 1}
"""The numbers of ``tallies::Agreement``."""

ZERO_SIGNS: Final = {Zero.POSITIVE: 1, Zero.NEGATIVE: -1, Zero.DROP: 0, Zero.MAJORITY: -1}
"""The sign of a vote of exactly zero; for ``MAJORITY``, of a majority that is zero as well."""


def rule_codes(rule: Rule) -> tuple[int, int, int]:
    """Return the codes of gate, vote and blend; behind a stage, of a gate that lets all pass."""
    gate = rule.gate
    if gate in STAGED and gate is not Gate.RANDOM:
        gate = Gate.ALL if rule.vote is Vote.NONE else Gate.MAGNITUDE
    return GATE_CODES[gate], VOTE_CODES[rule.vote], BLEND_CODES[rule.blend]


CERTAIN: Final = 1 << 30
"""A probability of 1, ``tallies::kCertain``."""

NAN_BITS: Final = 0x7F800001
"""The bits as which every NaN ranks among magnitudes."""

MAX_EXPERTS: Final = 256
"""The most experts in one call, ``tallies::kMaxExperts``."""

INFINITY_BITS: Final = 0x7F800000
"""The bits of infinity in float32; as magnitudes, all NaN lie above it."""

KEEP_ALL: Final = -1
"""The floor below every magnitude: entries with bits(|x|) above a floor survive."""

KEEP_NONE: Final = 0x7FFFFFFF
"""The floor above every magnitude."""
