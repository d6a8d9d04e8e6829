"""Guesses of thresholds that several merges share: one sample, and one proof in their combine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from .._core import (
    CancelledVotes,
    CandidateResult,
    CombineTask,
    Guesses,
    Limits,
    Plan,
    Threshold,
    Unit,
)

Item = TypeVar("Item")
Key = tuple[int, int, int | None]
"""A slice of a tensor: its number, the first element, and the number of elements or None."""


@dataclass(frozen=True)
class Guessing:
    """Thresholds that a merge wants to guess."""

    units: Sequence[Unit]
    locate: bool
    limits: Limits
    data: bytes | None = None
    """The guesses of an earlier run, with its counts."""

    @property
    def key(self) -> object:
        """A value that is equal for merges whose guesses can be joined."""
        return tuple(tuple(unit.slices) for unit in self.units), self.locate


@dataclass(frozen=True)
class Proof:
    """The task of a joint combine that proves the guesses in a task of one merge."""

    unit: int
    """The unit that has the task's thresholds; -1 for none."""
    task: int
    """The joint task; -1 where the slice was counted before."""
    place: int
    """The merge's candidate in the joint task."""
    first: int
    n_elements: int


@dataclass(frozen=True)
class Nothing:
    """The result of a task that has to be combined again as a whole."""

    sign_sum: int = 0
    conflicts: int = 0
    cancellations: int = 0
    overflow: bool = False
    plus: tuple[Sequence[tuple[int, int]], Sequence[int]] = ((), (0,) * 8)
    minus: tuple[Sequence[tuple[int, int]], Sequence[int]] = ((), (0,) * 8)
    output: Sequence[int] = (0,) * 8


@dataclass(frozen=True)
class SettledShare:
    """The part of settled guesses that is one merge's."""

    thresholds: list[list[Threshold]]
    is_right: list[list[bool]]
    results: list[list[CandidateResult | Nothing | None]]
    """The result of each of the merge's tasks, if it has changed."""
    again: list[tuple[int, int, int, int]]


@dataclass
class Share:
    """The part of joint guesses that is one merge's; in the place of native guesses."""

    joint: JointGuesses
    first: Sequence[int]
    """By unit, the search with which the merge's own begin."""
    n_searches: Sequence[int]
    proofs: list[Proof] = field(default_factory=list)
    """The proof of each task that the merge has combined with these guesses."""

    def of(self, rows: Sequence[Sequence[Item]]) -> list[list[Item]]:
        """Return the merge's own items of those of all searches, by unit."""
        shares = zip(rows, self.first, self.n_searches, strict=True)
        return [list(row[first : first + n]) for row, first, n in shares]

    @property
    def thresholds(self) -> list[list[Threshold]]:
        """The thresholds as guessed."""
        return self.of(self.joint.native.thresholds)

    @property
    def is_sure(self) -> list[list[bool]]:
        """True for each threshold that the sample has proven."""
        return self.of(self.joint.native.is_sure)

    @property
    def n_sampled(self) -> int:
        """The bytes read for the sample of all."""
        return self.joint.native.n_sampled

    @property
    def n_listed(self) -> int:
        """The elements that were listed for all."""
        return self.joint.native.n_listed

    @property
    def n_repaired(self) -> int:
        """The elements that were combined again for all."""
        return self.joint.native.n_repaired

    def to_bytes(self) -> bytes:
        """Return the guesses of all, with what proves them so far."""
        return self.joint.to_bytes()


class JointGuesses:
    """The guesses of merges that rank the same tensors; equal ranks are searched once.

    Args:
        plan: The native plan that has the tensors.
        asked: The thresholds that each merge wants to guess, of equal keys. Those of an earlier run
            go on from what most of its tensors have proven.
        progress: Is called with the bytes moved since the last call.
    """

    def __init__(
        self,
        plan: Plan,
        asked: Mapping[int, Guessing],
        progress: Callable[[int], object] | None,
    ) -> None:
        # The plan is not kept: shares refer to this, and the files of the plan are to be closed.
        self._progress = progress
        one = next(iter(asked.values()))
        states = [_State.of(each.data) for each in asked.values() if each.data is not None]
        if states:
            state = max(states, key=lambda each: len(each.counted))
        else:
            wanted = [[tuple(unit.ranks) for unit in each.units] for each in asked.values()]
            state = _State([list(dict.fromkeys(rows)) for rows in zip(*wanted, strict=True)])
        self._rows, self._counted = state.rows, set(state.counted)
        self.native: Guesses = plan.guess(
            units=[
                unit.with_ranks(ranks=[rank for row in rows for rank in row])
                for unit, rows in zip(one.units, self._rows, strict=True)
            ],
            locate=one.locate,
            limits=one.limits,
            data=state.native or None,
            progress=progress,
        )
        self.shares: dict[int, Share] = {}
        """By merge; without those whose ranks an earlier run did not guess."""
        for number, each in asked.items():
            own = [tuple(unit.ranks) for unit in each.units]
            if all(row in rows for row, rows in zip(own, self._rows, strict=True)):
                first = [_first(row, rows) for row, rows in zip(own, self._rows, strict=True)]
                self.shares[number] = Share(self, first, [*map(len, own)])
        self.open = {
            number for number, share in self.shares.items() if not all(map(all, share.is_sure))
        }
        """The merges that have guesses to prove."""
        self._n_tasks = 0
        self._bytes: bytes | None = None

    def joined(self, key: Key, tasks: Mapping[int, CombineTask]) -> tuple[int, list[int]]:
        """Return how a slice counts that merges combine together.

        Args:
            key: The slice.
            tasks: The task of each merge.

        Returns:
            Its unit and, for each task, the search with which its own begin; -1 and none where it
            has been counted before, or no task has guesses.
        """
        unit = -1 if key in self._counted else max(task.unit for task in tasks.values())
        if unit < 0:
            return -1, []
        first = {number: share.first[unit] for number, share in self.shares.items()}
        return unit, [first[n] if task.unit >= 0 else 0 for n, task in tasks.items()]

    def note(self, joint: Sequence[tuple[Key, int]]) -> list[int]:
        """Note the tasks of a joint combine: slice and unit of each.

        Returns:
            The number of each task among all with these guesses, or -1 where it does not count.
        """
        first, self._n_tasks = self._n_tasks, self._n_tasks + len(joint)
        self._bytes = None
        self._counted |= {key for key, unit in joint if unit >= 0}
        return [first + i if unit >= 0 else -1 for i, (_, unit) in enumerate(joint)]

    def to_bytes(self) -> bytes:
        """Return the guesses and what proves them so far, for another run."""
        if self._bytes is None:
            state = _State(self._rows, sorted(self._counted, key=str), self.native.to_bytes())
            self._bytes = state.to_bytes()
        return self._bytes

    def settle(
        self, plan: Plan, limits: Limits, cancelled: CancelledVotes | None = None
    ) -> dict[int, SettledShare]:
        """Return, for each merge with guesses, exact thresholds and what becomes of its results.

        Args:
            plan: The native plan that has the tensors.
            limits: Threads and buffers.
            cancelled: The lists of cancelled votes of what was combined with the guesses.
        """
        settled = plan.settle(
            guesses=self.native, limits=limits, progress=self._progress, cancelled=cancelled
        )
        again: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for task, place, first, n_elements in settled.again:
            again.setdefault((task, place), []).append((first, n_elements))
        found = {}
        for number in self.open:
            share = self.shares[number]
            own = SettledShare(share.of(settled.thresholds), share.of(settled.is_right), [], [])
            for i, proof in enumerate(share.proofs):
                result: CandidateResult | Nothing | None = None
                if proof.task >= 0:
                    result = settled.results[proof.task][proof.place]
                    ranges = again.get((proof.task, proof.place), [])
                    own.again.extend((i, 0, first, n) for first, n in ranges)
                elif proof.unit >= 0 and not all(own.is_right[proof.unit]):
                    result = Nothing()
                    own.again.append((i, 0, proof.first, proof.n_elements))
                own.results.append([result])
            found[number] = own
        return found


@dataclass(frozen=True)
class _State:
    """Joint guesses as data."""

    rows: list[list[tuple[int, ...]]]
    """By unit, the ranks of each merge; equal ones once."""
    counted: Sequence[Key] = ()
    """The slices whose combine has proven its part."""
    native: bytes = b""

    def to_bytes(self) -> bytes:
        facts = json.dumps({"rows": self.rows, "counted": list(self.counted)}).encode()
        return _MARK + len(facts).to_bytes(8, "little") + facts + self.native

    @classmethod
    def of(cls, data: bytes) -> _State:
        """Return the state that ``to_bytes`` wrote."""
        n = int.from_bytes(data[len(_MARK) : len(_MARK) + 8], "little")
        begin = len(_MARK) + 8
        facts = json.loads(data[begin : begin + n])
        rows = [[tuple(row) for row in rows] for rows in facts["rows"]]
        counted = [(job, first, n) for job, first, n in facts["counted"]]
        return cls(rows, counted, data[begin + n :])


_MARK = b"tallies joint guesses 1\n"


def _first(row: tuple[int, ...], rows: Sequence[tuple[int, ...]]) -> int:
    """Return the number of ranks in the rows before one of them."""
    return sum(map(len, rows[: rows.index(row)]))
