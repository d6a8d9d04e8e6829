"""Finds the L1 norms from which LiNeS takes its alpha: of summed and of merged task vectors.

A survey that merges every tensor, a stretch at a time, and writes nothing: the task vectors of the
stretch are read into float32 arrays, merged onto a base of zeros, and summed up. Stretches are the
same for any budget and number of threads, and so are the norms. The arrays take 8 MiB, or what one
chunk of whole rows takes.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .._core import Candidate, CombineTask, Limits, Plan, Slice, read_delta
from ..engine.codes import KEEP_ALL, ZERO_SIGNS, rule_codes
from ..engine.files import grain_of, moved, moved_operand, native, values_of
from ..engine.jobs import Work
from ..engine.outcomes import Statistics
from ..engine.passes import Passes
from ..engine.surveys.inner_products import inner_products
from ..errors import InputError
from ..messages import show
from ..spec.choices import Scope
from ..spec.dtypes import DTYPE_BYTES, DTYPE_CODES
from ..spec.rules import Blend, Gate, Rule, Vote, Zero

_ELEMENTS = 1 << 21
_F32 = DTYPE_CODES["F32"]
_SUM = Rule(Gate.ALL, Vote.NONE, Blend.SUM)


class Norms(NamedTuple):
    """L1 norms over all tensors; x_t are the weighted task vectors, m is merged at scale 1."""

    summed: float
    """|sum_t x_t|_1"""
    merged: float
    """|m|_1"""


class _Parts(NamedTuple):
    """The sums of a tensor or a stretch of one."""

    summed: float
    merged: dict[int, float]
    """By the sign that cancelled votes take."""
    sign_sum: int


def find_alpha(
    open_plan: Callable[[], Plan],
    works: Sequence[Work],
    passes: Passes,
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> float:
    """Return alpha = |sum_t x_t|_1 / |m|_1 / N; 0 where m, and so any multiple of it, is zero.

    Arguments and errors are those of ``l1_norms``.

    Wang et al., LiNeS, 2024, arXiv 2410.17146.
    """
    norms = l1_norms(open_plan, works, passes, limits, progress)
    return norms.summed / norms.merged / len(works[0].weights) if norms.merged else 0.0


def l1_norms(
    open_plan: Callable[[], Plan],
    works: Sequence[Work],
    passes: Passes,
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> Norms:
    """Return the norms of a merge with a base, all surveyed but not scaled.

    Args:
        open_plan: Makes plans without jobs in which the inputs are open.
        works: The tensors.
        passes: The passes of the merge.
        limits: Threads and buffers for reading.
        progress: Is called with the bytes moved since the last call.

    Raises:
        InputError: A task vector has a NaN or infinity, or a sum overflows.
        StorageError: Reading fails.
    """
    survey = _Survey(open_plan, passes, limits, progress)
    tensors = [survey.measure(job, works[job], found) for job, found in passes.surveys()]
    groups = [tensors] if passes.rule.scope is Scope.MODEL else [[one] for one in tensors]
    signs = [1 if sum(one.sign_sum for one in group) > 0 else -1 for group in groups]
    merged = [one.merged[sign] for group, sign in zip(groups, signs, strict=True) for one in group]
    return Norms(math.fsum(one.summed for one in tensors), math.fsum(merged))


class _Survey:
    def __init__(
        self,
        open_plan: Callable[[], Plan],
        passes: Passes,
        limits: Limits,
        progress: Callable[[int], object] | None,
    ) -> None:
        self._open_plan = open_plan
        self._passes = passes
        self._limits = limits
        self._in_memory = Limits(limits.n_threads, 1 << 20)
        self._progress = progress
        self._arrays: list[array[float]] = []
        """Float32 arrays: the base, which is zero, the task vectors, and the merged one."""

    def measure(self, job: int, work: Work, found: Statistics) -> _Parts:
        """Return the sums of one tensor."""
        reading = self._open_plan()
        parts = []
        for number, (first, n) in enumerate(self._stretches(job, work)):
            reading.add_job(n, [native(moved_operand(one, first)) for one in work.inputs], [])
            self._read(reading, number, work, n)
            parts.append(self._measure(job, work, found, first, n))
        return _Parts(
            math.fsum(part.summed for part in parts),
            {sign: math.fsum(part.merged[sign] for part in parts) for sign in (1, -1)},
            sum(part.sign_sum for part in parts),
        )

    def _stretches(self, job: int, work: Work) -> Iterator[tuple[int, int]]:
        """Yield the first element and the number of elements of each stretch."""
        grain = math.lcm(self._passes.grain(job), *map(grain_of, work.inputs))
        n = max(_ELEMENTS // (len(work.inputs) + 1) // grain, 1) * grain
        for first in range(0, work.n_elements, n):
            yield first, min(n, work.n_elements - first)

    def _measure(self, job: int, work: Work, found: Statistics, first: int, n: int) -> _Parts:
        plan = self._plan_of_arrays(work, first)
        floors, cutoffs = ([one] * len(work.weights) for one in (KEEP_ALL, work.n_elements))
        whole = Candidate(weights=work.weights, floors=floors, cutoffs=cutoffs)
        task = CombineTask(job=Slice(job=0, first=first, n_elements=n), candidates=[whole])
        gate, vote, blend = rule_codes(_SUM)
        plan.combine(tasks=[task], gate=gate, vote=vote, blend=blend, limits=self._in_memory)
        summed = self._norm(work, n)
        zero = self._passes.rule.zero
        result = self._passes.merge_stretch(plan, job, found, ZERO_SIGNS[zero], first, n)
        merged = dict.fromkeys((1, -1), self._norm(work, n))
        if result.cancellations and zero is Zero.MAJORITY:
            self._passes.merge_stretch(plan, job, found, 1, first, n)
            merged[1] = self._norm(work, n)
        if not all(map(math.isfinite, (summed, *merged.values()))):
            raise InputError(
                f"tensor {show(work.name)}: what its task vectors merge to overflows float32, and "
                "alpha 'auto' of layer_scaling needs its norm; lower the weights"
            )
        return _Parts(summed, merged, result.sign_sum)

    def _read(self, plan: Plan, job: int, work: Work, n: int) -> None:
        """Read the task vectors of a stretch, a job of ``plan``, into the arrays."""
        while len(self._arrays) <= len(work.inputs):
            self._arrays.append(array("f"))
        for one in self._arrays:
            if len(one) < n:
                one.frombytes(bytes(4 * (n - len(one))))
        for expert, values in enumerate(self._arrays[1 : len(work.inputs)]):
            address = values.buffer_info()[0]
            _, nonfinite = read_delta(
                plan=plan, job=job, expert=expert, out=address, limits=self._limits
            )
            if nonfinite:
                raise InputError(
                    f"tensor {show(work.name)}: the task vector of model {expert + 1} has NaN or "
                    "infinite values, and alpha 'auto' of layer_scaling needs its norm; repair "
                    "the model, or give a number"
                )
        if self._progress is not None:
            self._progress(n * sum(DTYPE_BYTES[values_of(one)[2]] for one in work.inputs))

    def _plan_of_arrays(self, work: Work, first: int) -> Plan:
        """Return a plan of the whole tensor, whose stretch from ``first`` on is the arrays."""
        places = [
            moved((-1, values.buffer_info()[0], _F32), -first)
            for values in self._arrays[: len(work.inputs) + 1]
        ]
        plan = Plan(True)
        plan.add_job(work.n_elements, places[:-1], places[-1:])
        return plan

    def _norm(self, work: Work, n: int) -> float:
        """Return the L1 norm of the last merged stretch."""
        plan = Plan(False)
        plan.add_job(n, [(-1, self._arrays[len(work.inputs)].buffer_info()[0], _F32)], [])
        ((row,),) = inner_products(plan, [(0, n)], 1, False, True, self._in_memory, None)
        return row[1]
