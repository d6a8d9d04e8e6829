"""Merges with guessed thresholds, and the same with exact ones, in memory or in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tallies import _core
from tallies.engine.codes import BLEND_CODES, GATE_CODES, KEEP_ALL, NAN_BITS, VOTE_CODES
from tallies.spec.dtypes import DTYPE_CODES, DTYPE_OF_ARRAY
from tallies.spec.rules import Blend, Gate, Vote
from tests.support.merged import Merged

Array = npt.NDArray[Any]
TIES: dict[str, Any] = {
    "gate": GATE_CODES[Gate.MAGNITUDE],
    "vote": VOTE_CODES[Vote.SUM],
    "blend": BLEND_CODES[Blend.MEAN_OF_AGREEING],
}


def code(x: Array) -> int:
    return DTYPE_CODES[DTYPE_OF_ARRAY[x.dtype.name]]


@dataclass
class Tensor:
    """The operands of one tensor, and the type of what is merged of them."""

    base: Array
    experts: Sequence[Array]
    out: Any = None
    """By default the type of the base."""
    scales: Array | None = None
    """One for each row of the experts, whose elements they multiply."""

    @property
    def out_type(self) -> Any:
        return np.dtype(self.base.dtype if self.out is None else self.out)


@dataclass(frozen=True)
class Candidate:
    """The ranks of the experts as shares, and the numbers of the blend."""

    densities: Sequence[float]
    weights: Sequence[float] = ()
    scale: float = 1.0
    zero_sign: int = 1
    by_majority: bool = False
    outliers: Sequence[float] = ()
    """Shares of the largest entries that a band drops, where the experts have one."""


class Case:
    """Tensors that are ranked together, or each alone, and merged to several candidates."""

    def __init__(
        self,
        tensors: Sequence[Tensor],
        candidates: Sequence[Candidate],
        *,
        by_tensor: bool = False,
        locate: bool = False,
        limits: _core.Limits,
        folder: Path | None = None,
        rule: dict[str, Any] = TIES,
        joined: bool = False,
    ) -> None:
        """``joined``: each candidate has a task of its own, and these are joined to one."""
        self.tensors, self.candidates = tensors, candidates
        self.locate, self.limits, self.folder, self.rule = locate, limits, folder, rule
        self.joined = joined
        jobs = range(len(tensors))
        self.groups = [[job] for job in jobs] if by_tensor else [list(jobs)]
        self.guesses: _core.Guesses | None = None
        self.n_again = self.n_mended = self.n_left = 0

    def ranks(self, group: Sequence[int]) -> list[int]:
        n = sum(self.tensors[job].base.size for job in group)
        found = []
        for one in self.candidates:
            dropped = one.outliers or [0.0] * len(one.densities)
            pairs = list(zip(dropped, one.densities, strict=True))
            found += [int(n * (out + kept)) for out, kept in pairs]
            found += [int(n * out) for out in one.outliers]
        return found

    def units(self) -> list[_core.Unit]:
        return [_core.Unit(jobs=group, ranks=self.ranks(group)) for group in self.groups]

    def exact(self, *, votes: int | None = None) -> Merged:
        """Select, and combine with what was found: two reads.

        Lists of cancelled votes may take so many bytes, or are not made.
        """
        run = _Run(self, votes)
        found = run.plan.select(units=self.units(), locate=self.locate, limits=self.limits)
        run.add(list(run.jobs), run.combine([run.task(job, found) for job in run.jobs]))
        return run.finish(found)

    def guessed(
        self,
        *,
        list_bytes: int = 0,
        calls: int = 1,
        resumed: bool = False,
        votes: int | None = None,
    ) -> Merged:
        """Guess, combine and settle: one read, but for what was guessed wrong."""
        run = _Run(self, votes)
        units = self.units()
        guesses = run.plan.guess(
            units=units, locate=self.locate, limits=self.limits, list_bytes=list_bytes
        )
        guess = guesses.thresholds
        parts = [list(run.jobs)[i::calls] for i in range(calls)]
        results: dict[int, Any] = {}
        for part in parts:
            if resumed:
                guesses = _core.Guesses.from_bytes(guesses.to_bytes(), units=units)
            tasks = [run.task(job, guess, guessed=True) for job in part]
            results.update(zip(part, run.combine(tasks, guesses=guesses), strict=True))
        settled = run.plan.settle(guesses=guesses, limits=self.limits, cancelled=run.cancelled)
        known = parts[-1:] if resumed else parts
        order = [job for part in known for job in part]
        found = settled.thresholds
        for job in order:
            new = settled.results[order.index(job)]
            whole = results[job]
            run.add_inputs(job, whole)
            for k, one in enumerate(new):
                run.add_result(job, k, whole.candidates[k] if one is None else one)
        again = [(order[task], k, first, n) for task, k, first, n in settled.again]
        for job in set(run.jobs) - set(order):  # of an earlier process, which left no lists
            unit = self.unit_of(job)
            if all(settled.is_right[unit]):
                run.add([job], [results[job]])
            else:
                run.add_inputs(job, results[job])
                size = self.tensors[job].base.size
                again += [(job, k, 0, size) for k in range(len(self.candidates))]
        combined = run.combine(
            [run.task(job, found, first, n, only=k) for job, k, first, n in again]
        )
        for (job, k, _, _), result in zip(again, combined, strict=True):
            run.add_result(job, k, result.candidates[0])
        self.guesses = guesses
        self.n_again = sum({(job, first): n for job, _, first, n in again}.values())
        return run.finish(found)

    def unit_of(self, job: int) -> int:
        return next(u for u, group in enumerate(self.groups) if job in group)


class _Run:
    """One merge of a case, with outputs of its own."""

    def __init__(self, case: Case, votes: int | None = None) -> None:
        self.case = case
        self.cancelled = None if votes is None else _core.CancelledVotes(list_bytes=votes)
        self.jobs = range(len(case.tensors))
        self.plan = _core.Plan(True)
        self._memory: list[list[Array]] = []
        self._files: list[list[Path]] = []
        self._operands: list[tuple[Any, Any]] = []
        self._n_jobs = len(self.jobs)
        for job, tensor in enumerate(case.tensors):
            places = []
            outputs = [np.zeros(tensor.base.size, tensor.out_type) for _ in case.candidates]
            self._memory.append(outputs)
            self._files.append([])
            for k, out in enumerate(outputs):
                if case.folder is None:
                    places.append((-1, out.ctypes.data, code(out)))
                else:
                    path = case.folder / f"{id(self)}-{job}-{k}"
                    self._files[-1].append(path)
                    places.append(
                        (self.plan.open_to_write(str(path), out.nbytes + 8), 8, code(out))
                    )
            inputs = [_place(tensor.base), *(self._expert(tensor, x) for x in tensor.experts)]
            self.plan.add_job(tensor.base.size, inputs, places, apart=True)
            self._operands.append((inputs, places))
        n = range(len(case.candidates))
        self._tallies = [[[0, 0, 0, False] for _ in n] for _ in self.jobs]
        self._lanes = [[[0] * 8 for _ in n] for _ in self.jobs]
        self._assumed: list[list[dict[int, list[tuple[int, int]]]]] = [
            [{1: [], -1: []} for _ in n] for _ in self.jobs
        ]
        self._guessed_lanes = [[{1: [0] * 8, -1: [0] * 8} for _ in n] for _ in self.jobs]
        self._inputs: list[list[list[int]]] = [[] for _ in self.jobs]

    def _expert(self, tensor: Tensor, x: Array) -> Any:
        if tensor.scales is None:
            return _place(x)
        return _core.Source.scaled(
            values=_place(x),
            scales=_place(tensor.scales),
            row_length=x.size // tensor.scales.size,
            block_rows=1,
        )

    def task(
        self,
        job: int,
        found: Sequence[Sequence[_core.Threshold]],
        first: int = 0,
        n: int | None = None,
        *,
        guessed: bool = False,
        signs: Sequence[int] | None = None,
        only: int | None = None,
    ) -> _core.CombineTask:
        """The task of all candidates, or of one."""
        case = self.case
        unit = case.unit_of(job)
        ranks, thresholds = case.ranks(case.groups[unit]), found[unit]
        position = case.groups[unit].index(job)
        candidates, stages, first_searches = [], [], []
        n_before = 0
        for k, one in enumerate(case.candidates):
            n_experts = len(one.densities)
            searches = list(range(n_before, n_before + n_experts + len(one.outliers)))
            first_searches.append(n_before)
            n_before += len(searches)
            floors, cutoffs = [], []
            for s in searches:
                none = KEEP_ALL if s - searches[0] < n_experts else NAN_BITS
                floors.append((7 if guessed else thresholds[s].bits - 1) if ranks[s] else none)
                cutoff = _cutoff(thresholds[s], position, case.tensors[job].base.size)
                cutoffs.append(1 << 62 if guessed else cutoff)
            if one.outliers:
                stages = [
                    _core.Band(
                        floor=floors[e],
                        ceiling=floors[e + n_experts],
                        floor_cutoff=cutoffs[e],
                        ceiling_cutoff=cutoffs[e + n_experts],
                        factor=1.5,
                    )
                    for e in range(n_experts)
                ]
                floors = [KEEP_ALL] * n_experts
                cutoffs = [1 << 62] * n_experts
            candidates.append(
                _core.Candidate(
                    weights=one.weights or [1.0] * n_experts,
                    floors=floors,
                    cutoffs=cutoffs,
                    scale=one.scale,
                    zero_sign=one.zero_sign if signs is None else signs[k],
                    majority=k if one.by_majority and signs is None else -1,
                    searches=self._numbers(searches, first_searches[k]) if guessed else [],
                )
            )
        where = _core.Slice(
            job=job if only is None else self._alone(job, only), first=first, n_elements=n
        )
        own = candidates if only is None else [candidates[only]]
        unit = unit if guessed else -1
        if not case.joined or only is not None:
            return _core.CombineTask(job=where, candidates=own, stages=stages, unit=unit)
        # Units know the job whose inputs the joint one has.
        there = _core.Slice(job=job, first=first, n_elements=n)
        return _core.CombineTask.together(
            tasks=[
                _core.CombineTask(job=there, candidates=[one], stages=stages, unit=unit)
                for one in candidates
            ],
            rules=[(case.rule["gate"], case.rule["vote"], case.rule["blend"])] * len(candidates),
            majorities=[*range(len(candidates))],
            job=_core.Slice(job=self._joint(job), first=first, n_elements=n),
            unit=unit,
            first_searches=first_searches if guessed else [],
        )

    def _numbers(self, searches: Sequence[int], first: int) -> list[int]:
        """The searches as the candidate's own task knows them."""
        return [one - first for one in searches] if self.case.joined else [*searches]

    def _joint(self, job: int) -> int:
        """Add the job of a tensor once more, and return its number."""
        inputs, places = self._operands[job]
        self.plan.add_job(self.case.tensors[job].base.size, inputs, places, apart=True)
        self._n_jobs += 1
        return self._n_jobs - 1

    def _alone(self, job: int, k: int) -> int:
        """Add the job that writes one candidate, and return its number."""
        inputs, places = self._operands[job]
        self.plan.add_job(self.case.tensors[job].base.size, inputs, [places[k]])
        self._n_jobs += 1
        return self._n_jobs - 1

    def combine(self, tasks: Sequence[_core.CombineTask], **extra: Any) -> list[Any]:
        limits = self.case.limits
        return self.plan.combine(
            tasks=tasks,
            fingerprints=True,
            limits=limits,
            cancelled=self.cancelled,
            **self.case.rule,
            **extra,
        )

    def add_inputs(self, job: int, result: _core.CombineResult) -> None:
        self._inputs[job] = result.inputs

    def add(self, jobs: Sequence[int], results: Sequence[_core.CombineResult]) -> None:
        for job, result in zip(jobs, results, strict=True):
            self.add_inputs(job, result)
            for k, one in enumerate(result.candidates):
                self.add_result(job, k, one)

    def add_result(self, job: int, k: int, one: _core.CandidateResult) -> None:
        tally = self._tallies[job][k]
        tally[0] += one.sign_sum
        tally[1] += one.conflicts
        tally[2] += one.cancellations
        tally[3] |= one.overflow
        _add(self._lanes[job][k], one.output)
        for sign, (ranges, lanes) in ((1, one.plus), (-1, one.minus)):
            self._assumed[job][k][sign] += ranges
            _add(self._guessed_lanes[job][k][sign], lanes)

    def _mend(self, job: int, k: int, ranges: list[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        """Mend what is listed of these ranges of a tensor; return the others."""
        if self.cancelled is None:
            return ranges
        (mended,) = self.plan.mend(
            cancelled=self.cancelled, wrong=[(job, k, ranges)], limits=self.case.limits
        )
        _add(self._lanes[job][k], mended.output)
        self.case.n_mended += mended.n_mended
        self.case.n_left += sum(n for _, n in mended.left)
        return mended.left

    def finish(self, found: Sequence[Sequence[_core.Threshold]]) -> Merged:
        """Mend, or combine again, where cancelled votes took another sign than the majority."""
        signs = [one.zero_sign for one in self.case.candidates]
        for k, one in enumerate(self.case.candidates):
            if one.by_majority:
                total = sum(self._tallies[job][k][0] for job in self.jobs)
                signs[k] = 1 if total > 0 else -1
        for k, one in enumerate(self.case.candidates):
            for job in self.jobs:
                wrong = []
                for assumed, ranges in self._assumed[job][k].items():
                    if one.by_majority and assumed != signs[k]:
                        wrong += ranges
                    else:
                        _add(self._lanes[job][k], self._guessed_lanes[job][k][assumed])
                for first, n in self._mend(job, k, wrong):
                    task = self.task(job, found, first, n, signs=signs)
                    (result,) = self.combine([task])
                    again = result.candidates[k]
                    for lanes in (again.output, again.plus[1], again.minus[1]):
                        _add(self._lanes[job][k], lanes)
        assert self.cancelled is None or not self.cancelled.n_bytes
        outputs = [[x.tobytes() for x in row] for row in self._memory]
        if self.case.folder is not None:
            outputs = [[path.read_bytes() for path in row] for row in self._files]
        return Merged(
            outputs,
            [[_numbers(one) for one in row] for row in found],
            [[tuple(one) for one in row] for row in self._tallies],  # type: ignore[misc]
            [[tuple(one) for one in row] for row in self._lanes],
            self._inputs,
        )


def _place(x: Array) -> tuple[int, int, int]:
    return (-1, x.ctypes.data, code(x))


def _add(sums: list[int], lanes: Sequence[int]) -> None:
    for i, lane in enumerate(lanes):
        sums[i] = (sums[i] + lane) % (1 << 64)


def _cutoff(found: _core.Threshold, position: int, n: int) -> int:
    if position < found.last_job:
        return n
    return found.last_count if position == found.last_job else 0


def _numbers(one: _core.Threshold) -> tuple[int, ...]:
    return (one.bits, one.rank, one.n_above, one.n_equal, one.last_job, one.last_count)
