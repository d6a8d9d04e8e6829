"""Runs the candidates of a sweep side by side, so that their inputs are read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from .._core import Plan
from ..engine.files import PlanFiles
from ..engine.shared_plan import SharedPlan
from ..engine.side_by_side import Ask, SideBySide
from ..engine.stand_in import StandIn
from ..spec.choices import Scope
from .plan import MergePlan

Shared = TypeVar("Shared", bound=SharedPlan)


@contextmanager
def together(
    plans: Sequence[MergePlan],
    run: Callable[[int, PlanFiles], Any],
    share: Callable[[Plan], Shared],
) -> Iterator[tuple[SideBySide, Shared]]:
    """Start merges that read the same tensors; yield them and the plan that answers them.

    Args:
        plans: The plans of the merges.
        run: Runs the merge of a number over these files.
        share: Makes the plan that all of them share.
    """
    first = plans[0]
    plan = Plan(first.has_base)
    files = PlanFiles(plan, first.input_files())
    shared = share(plan)

    def started(number: int) -> Callable[[Ask], Any]:
        def start(ask: Ask) -> Any:
            stand_in: Any = StandIn(shared, number, ask, of_model=is_of_model(plans[number]))
            return run(number, files.over(stand_in))

        return start

    with SideBySide([started(number) for number in range(len(plans))]) as side:
        yield side, shared


def run_together(
    plans: Sequence[MergePlan],
    run: Callable[[int, PlanFiles], Any],
    progress: Callable[[int], object] | None,
) -> list[Any]:
    """Run merges that read the same tensors, and return their results.

    Args:
        plans: The plans of the merges.
        run: Runs the merge of a number over these files.
        progress: Is called with the bytes moved since the last call.

    Raises:
        InputError: A merge finds values or parameters that cannot be merged.
        StorageError: Reading or writing fails.
    """
    has_base = plans[0].has_base
    with together(plans, run, lambda plan: SharedPlan(plan, has_base, progress)) as (side, shared):
        while waiting := side.waiting():
            side.give(shared.answer(waiting))
        return side.results()


def is_of_model(made: MergePlan) -> bool:
    """Return True where cancelled votes take the majority of the signs of all tensors."""
    return made.rule.scope is Scope.MODEL


def bytes_read(plans: Sequence[MergePlan]) -> int:
    """Return the bytes that the merges of a group read together; one by itself reads as ever."""
    return plans[0].bytes_read if len(plans) == 1 else bytes_shared(plans)


def bytes_shared(plans: Sequence[MergePlan], *, in_hand: bool = False) -> int:
    """Return the bytes that merges read through a shared plan.

    The combine proves the thresholds that most of the merges guess. Others come from one selection
    for all of a kind before the combine. Other surveys count for each merge; equal ones cost less.

    Args:
        plans: The plans of the merges.
        in_hand: True where a tensor is handed over before the next one is read.
    """
    selections: dict[object, int] = {}
    guessing: Counter[object] = Counter()
    others = 0
    for one in plans:
        others += one.bytes_surveyed
        if (survey := one.survey) is not None and survey.ranks_magnitudes:
            n_bytes = survey.n_passes * one.bytes_combined - one.bytes_spared
            kind = type(survey), survey.of_model, one.rule.equal
            selections[kind] = max(n_bytes, selections.get(kind, 0))
            if not one.guesses:
                others -= n_bytes
            elif not (in_hand and survey.of_model):
                guessing[kind] += 1
    if guessing:
        most, n = guessing.most_common(1)[0]
        if not in_hand or n == len(plans):
            del selections[most]
    return plans[0].bytes_combined + sum(selections.values()) + others


def bytes_moved(plans: Sequence[MergePlan]) -> int:
    """Return the bytes that a group of merges reads together, and those that each writes."""
    return bytes_read(plans) + sum(one.bytes_written for one in plans)
