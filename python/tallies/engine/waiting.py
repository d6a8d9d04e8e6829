"""Passes that a merge asks for and waits for, where merges run side by side, and their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._core import CandidateResult, CombineTask, Limits, Threshold
from .joint_guesses import Key, Proof

Wrong = tuple[int, int, Sequence[Sequence[int]]]
"""A tensor, the row of its result, and ranges whose cancelled votes took the wrong sign."""


@dataclass(frozen=True)
class OneResult:
    """The part of a combine's result that belongs to one merge."""

    inputs: Sequence[Sequence[int]]
    candidates: Sequence[CandidateResult]


@dataclass(frozen=True)
class Sure:
    """Thresholds in the place of guesses that a combine has to prove."""

    thresholds: list[list[Threshold]]
    n_sampled: int = 0
    """The bytes that the selection read."""
    n_listed: int = 0
    n_repaired: int = 0

    @property
    def is_sure(self) -> list[list[bool]]:
        """True for each threshold."""
        return [[True] * len(row) for row in self.thresholds]


@dataclass(frozen=True)
class Survey:
    """A pass over the inputs that a merge waits for."""

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Holding:
    """Tensors that a merge wants to be kept in memory, and the bytes that they may take."""

    jobs: tuple[int, ...]
    n_bytes: int


@dataclass
class WaitingCombine:
    """A combine that a merge waits for, and what of it is done."""

    tasks: Sequence[CombineTask]
    rule: tuple[int, int, int]
    """The codes of gate, vote and blend."""
    fingerprints: bool
    stop_at_overflow: bool
    limits: Limits
    of_model: bool
    """True where cancelled votes take the majority of the signs of all tensors."""
    lists_votes: bool
    """True where cancelled votes are listed; the lists are those of all merges."""
    is_guess: bool = False
    """True where thresholds are guesses, which the combine proves."""
    left: dict[Key, CombineTask] = field(default_factory=dict)
    results: dict[Key, OneResult] = field(default_factory=dict)
    proofs: dict[Key, Proof] = field(default_factory=dict)
    """The proof of each task with guesses."""


@dataclass(frozen=True)
class Unmended:
    """The outcome of mending results that are not there any more: all has to be combined again."""

    left: list[tuple[int, int]]
    output: Sequence[int] = (0,) * 8
    n_listed: int = 0
    n_mended: int = 0


@dataclass(frozen=True)
class Settling:
    """Guesses that a merge has combined with, and wants to be made exact."""

    limits: Limits


def key_of(task: CombineTask) -> Key:
    """Return the slice that a task merges."""
    return (task.job, task.first, task.n_elements)
