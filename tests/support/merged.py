"""Compares all that two merges find and write."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Merged:
    """All that a merge finds and writes."""

    outputs: list[list[bytes]]
    thresholds: list[list[tuple[int, ...]]]
    tallies: list[list[tuple[int, int, int, bool]]]
    fingerprints: list[list[tuple[int, ...]]]
    inputs: list[list[list[int]]]

    def require_equal(self, other: Merged) -> None:
        assert self.thresholds == other.thresholds
        assert self.tallies == other.tallies
        assert self.fingerprints == other.fingerprints
        assert self.inputs == other.inputs
        assert self.outputs == other.outputs
