"""Turns choices into the numbers that native passes take."""

from __future__ import annotations

import enum
from typing import Final

from ..spec.choices import Scope
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
    if combine_stage(rule):
        gate = Gate.ALL if rule.vote is Vote.NONE else Gate.MAGNITUDE
    else:
        gate = rule.gate
    return GATE_CODES[gate], VOTE_CODES[rule.vote], BLEND_CODES[rule.blend]


def stage_code(rule: Rule) -> int:
    """Return the stage that a rule's gate is, as ``tallies::Stage``; 0 for gates that are none."""
    if rule.gate is Gate.BAND:
        return 4 if rule.scope is Scope.ROW else 3
    return {Gate.RANDOM: 1, Gate.RANK: 2}.get(rule.gate, 0)


def combine_stage(rule: Rule) -> int:
    """Return the stage before the blend: 0 as well for a random drop, which the blend has."""
    return 0 if rule.gate is Gate.RANDOM else stage_code(rule)


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
