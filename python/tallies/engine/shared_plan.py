"""One native plan for merges that run side by side: a pass that all ask for is taken once.

Each merge has a stand-in of the plan and goes through the steps of a merge as if it were alone. A
pass waits there until every merge has asked for one. Then thresholds of all are guessed from one
sample, or searched in one selection, and each tile is read once and combined for all of them out
of the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._core import CancelledVotes, CombineResult, CombineTask, Limits, Mended, Plan, Slice
from .combining import lists_of_votes
from .joint_guesses import Guessing, JointGuesses, Key, Proof
from .operands import Place
from .shared_selection import select_together
from .waiting import (
    Holding,
    OneResult,
    Settling,
    Sure,
    Survey,
    Unmended,
    WaitingCombine,
    Wrong,
)


class SharedPlan:
    """A native plan, and the passes that several merges ask of it.

    Args:
        plan: The plan, without jobs, in which the inputs are open.
        has_base: True if the first input of each tensor is a base.
        progress: Is called with the bytes moved since the last call.
    """

    def __init__(
        self, plan: Plan, has_base: bool, progress: Callable[[int], object] | None
    ) -> None:
        self.plan = plan
        self._has_base = has_base
        self._progress = progress
        self._jobs: list[tuple[int, Sequence[Any]]] = []
        self._outputs: dict[int, list[Sequence[Place]]] = {}
        self._joint: dict[tuple[int, tuple[int, ...]], int] = {}
        self._rows: dict[tuple[int, int], tuple[int, int]] = {}
        """By tensor and merge, a native job that writes the result, and the row of its outputs."""
        self._n_jobs = 0
        self._guesses: JointGuesses | None = None
        """The guesses that are not settled."""
        self._votes: dict[int, int] = {}
        """The sums of elected signs so far, by merge."""
        self._cancelled: CancelledVotes | None = None
        self.bytes_surveyed = 0
        """The bytes that surveys have read so far."""

    def add(
        self, number: int, n_elements: int, inputs: Sequence[Any], outputs: Sequence[Place]
    ) -> None:
        """Add the next tensor of a merge; every merge has the same ones in the same order."""
        own = self._outputs.setdefault(number, [])
        if len(own) == len(self._jobs):
            # Surveys know the tensors by these numbers, which are those of the works.
            self._jobs.append((n_elements, inputs))
            self.plan.add_job(n_elements, inputs, [])
            self._n_jobs += 1
        own.append(outputs)

    def answer(self, waiting: Mapping[int, Any]) -> dict[int, Any]:
        """Take a pass for those who wait for one; return the answers that are complete."""
        settling = {n: one for n, one in waiting.items() if isinstance(one, Settling)}
        guesses = self._guesses
        if guesses is not None and guesses.open <= settling.keys():
            self._guesses = None
            limits = next(iter(settling.values())).limits
            return guesses.settle(self.plan, limits, self._cancelled)
        combining = {n: one for n, one in waiting.items() if isinstance(one, WaitingCombine)}
        keys = self._first(combining)
        if not keys:
            guessing = {n: one for n, one in waiting.items() if isinstance(one, Guessing)}
            surveys = {n: one for n, one in waiting.items() if isinstance(one, Survey)}
            if guessing:
                return self._guess(guessing, len(waiting))
            if surveys:
                return self._survey(surveys)
            holding = {n: one for n, one in waiting.items() if isinstance(one, Holding)}
            if holding:
                return self._hold(holding)
            keys = self._next(combining)
        self._combine(keys, combining)
        return {n: None for n, one in combining.items() if not one.left}

    def _first(self, waiting: Mapping[int, WaitingCombine]) -> list[Key]:
        """Return the slices to merge before any other pass."""
        return []

    def _next(self, waiting: Mapping[int, WaitingCombine]) -> list[Key]:
        """Return the slices to merge next: those of the merge that waits for the fewest.

        Other merges that wait for one of them get that one too.
        """
        return list(min(waiting.values(), key=lambda one: len(one.left)).left)

    def _slices(self, keys: Sequence[Key], waiting: Mapping[int, WaitingCombine]) -> dict[Key, Key]:
        """Return the slice to merge for each that is asked for."""
        return {key: key for key in keys}

    def _hold(self, holding: Mapping[int, Holding]) -> dict[int, list[int]]:
        """Keep in memory what these merges want to, or nothing where they want different tensors.

        Passes of merges that want none find there what they read of the same tensors.
        """
        wanted = {one.jobs for one in holding.values() if one.jobs}
        jobs = wanted.pop() if len(wanted) == 1 else ()
        held = self.plan.hold(jobs=jobs, n_bytes=min(one.n_bytes for one in holding.values()))
        return {n: held if one.jobs == jobs else [0] * len(one.jobs) for n, one in holding.items()}

    def _survey(self, surveys: Mapping[int, Survey]) -> dict[int, Any]:
        selecting = {n: one.options for n, one in surveys.items() if one.name == "select"}
        found = select_together(self.plan, selecting, self._n_experts, self._surveyed)
        for number, one in surveys.items():
            if number not in selecting:
                call = getattr(self.plan, one.name)
                # Arrays that are to be held count when they are surveyed and combined.
                progress = None if one.name == "fill" else self._surveyed
                found[number] = call(**one.options, progress=progress)
        return found

    def _guess(self, asked: Mapping[int, Guessing], n_waiting: int) -> dict[int, Any]:
        """Guess for the merges of which most can share guesses, and select for others.

        One set of guesses is in force at a time, because a tile is counted once.
        """
        alike: dict[object, dict[int, Guessing]] = {}
        for number, one in asked.items():
            alike.setdefault(one.key, {})[number] = one
        most = max(alike.values(), key=_size)
        shares: dict[int, Any] = {}
        if self._guesses is None and self._may_guess(most, n_waiting):
            guesses = JointGuesses(self.plan, most, self._progress)
            self._guesses = guesses if guesses.open else None
            shares |= guesses.shares
        selecting = {
            number: {"units": one.units, "locate": one.locate, "limits": one.limits}
            for number, one in asked.items()
            if number not in shares
        }
        before = self.bytes_surveyed
        found = select_together(self.plan, selecting, self._n_experts, self._surveyed)
        n_sampled = self.bytes_surveyed - before
        return shares | {number: Sure(one, n_sampled) for number, one in found.items()}

    def _may_guess(self, asked: Mapping[int, Guessing], n_waiting: int) -> bool:
        """Return True if these merges may combine with guesses."""
        return True

    def _surveyed(self, n_bytes: int) -> None:
        self.bytes_surveyed += n_bytes
        if self._progress is not None:
            self._progress(n_bytes)

    def _n_experts(self, job: int) -> int:
        return len(self._jobs[job][1]) - self._has_base

    def _combine(self, keys: Sequence[Key], waiting: Mapping[int, WaitingCombine]) -> None:
        tasks, joined = [], []
        majorities: dict[tuple[int, int], int] = {}
        slices = self._slices(keys, waiting)
        for key in keys:
            own = {number: one.left[key] for number, one in waiting.items() if key in one.left}
            job, first, n_elements = slices[key]
            unit, first_searches = self._guesses.joined(key, own) if self._guesses else (-1, [])
            joint = self._joint_job(job, tuple(own))
            tasks.append(
                CombineTask.together(
                    tasks=[*own.values()],
                    rules=[waiting[number].rule for number in own],
                    majorities=[
                        majorities.setdefault((number, task.majority), len(majorities))
                        for number, task in own.items()
                    ],
                    job=Slice(job=joint, first=first, n_elements=n_elements),
                    unit=unit,
                    first_searches=first_searches,
                )
            )
            joined.append((key, unit, own))
        one = next(iter(waiting.values()))
        if self._cancelled is None and any(one.lists_votes for one in waiting.values()):
            self._cancelled = lists_of_votes(one.limits)
        # Gate, vote and blend are those of each candidate.
        gate, vote, blend = one.rule
        proves = any(unit >= 0 for _, unit, _ in joined)
        # A guess may be the cause of an overflow.
        stops = not any(one.is_guess for one in waiting.values())
        found = self.plan.combine(
            tasks=tasks,
            gate=gate,
            vote=vote,
            blend=blend,
            fingerprints=any(one.fingerprints for one in waiting.values()),
            stop_at_overflow=stops and any(one.stop_at_overflow for one in waiting.values()),
            limits=one.limits,
            progress=self._progress,
            cancelled=self._cancelled,
            guesses=self._guesses.native if self._guesses and proves else None,
            votes=[
                self._votes.get(number, 0) if waiting[number].of_model else 0
                for number, _ in majorities
            ],
        )
        numbers = [-1] * len(tasks)
        if self._guesses and proves:
            numbers = self._guesses.note([(key, unit) for key, unit, _ in joined])
        for (key, _, own), result, number_of_task in zip(joined, found, numbers, strict=True):
            for place, (number, task) in enumerate(own.items()):
                asked = waiting[number]
                if task.majority >= 0:
                    sign_sum = result.candidates[place].sign_sum
                    self._votes[number] = self._votes.get(number, 0) + sign_sum
                if asked.is_guess:
                    n = self._jobs[key[0]][0] - key[1] if key[2] is None else key[2]
                    asked.proofs[key] = Proof(task.unit, number_of_task, place, key[1], n)
                asked.results[key] = _part(result, place)
                del asked.left[key]

    def mend(self, number: int, wrong: Sequence[Wrong], limits: Limits) -> list[Mended | Unmended]:
        """Write elements of a merge with the other sign, where cancelled votes took the wrong one.

        Lists are found by the place of what is written: any job that writes there will do.
        """
        cancelled = self._cancelled or CancelledVotes(list_bytes=0)
        # An earlier run may have combined a tensor.
        places = [
            self._rows.get((job, number)) or (self._joint_job(job, (number,)), 0)
            for job, _, _ in wrong
        ]
        found = self.plan.mend(
            cancelled=cancelled,
            wrong=[(*at, ranges) for at, (_, _, ranges) in zip(places, wrong, strict=True)],
            limits=limits,
            progress=self._progress,
        )
        return [*found]

    def _joint_job(self, job: int, taking: tuple[int, ...]) -> int:
        """Return the number of the job that writes a tensor's results of these merges."""
        if (job, taking) not in self._joint:
            n_elements, inputs = self._jobs[job]
            places = [
                (place, row) for row, n in enumerate(taking) for place in self._outputs[n][job]
            ]
            self.plan.add_job(
                n_elements,
                inputs,
                [place for place, _ in places],
                rows=[row for _, row in places],
            )
            self._joint[job, taking] = self._note_rows(job, taking)
        return self._joint[job, taking]

    def _note_rows(self, job: int, taking: tuple[int, ...]) -> int:
        """Note that the job added last writes these merges' results; return its number."""
        self._rows |= {(job, number): (self._n_jobs, row) for row, number in enumerate(taking)}
        self._n_jobs += 1
        return self._n_jobs - 1


def _size(group: Mapping[int, Guessing]) -> tuple[bool, int]:
    """Return a number by which merges that guess together are preferred to others."""
    return any(one.data is not None for one in group.values()), len(group)


def _part(result: CombineResult, place: int) -> OneResult:
    return OneResult(result.inputs, [result.candidates[place]])
