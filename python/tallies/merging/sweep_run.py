"""Runs the candidates of a sweep side by side, so that their inputs are read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .._core import Plan
from ..engine.files import PlanFiles
from ..engine.shared_plan import SharedPlan, StandIn
from ..engine.side_by_side import Ask, SideBySide
from ..spec.choices import Scope
from .plan import MergePlan


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
    first = plans[0]
    plan = Plan(first.has_base)
    files = PlanFiles(plan, first.input_files())
    shared = SharedPlan(plan, first.has_base, progress)

    def started(number: int) -> Callable[[Ask], Any]:
        def start(ask: Ask) -> Any:
            stand_in: Any = StandIn(shared, number, ask, of_model=is_of_model(plans[number]))
            return run(number, files.over(stand_in))

        return start

    with SideBySide([started(number) for number in range(len(plans))]) as side:
        while waiting := side.waiting():
            side.give(shared.answer(waiting))
        return side.results()


def is_of_model(made: MergePlan) -> bool:
    """Return True where cancelled votes take the majority of the signs of all tensors."""
    return made.rule.scope is Scope.MODEL


def bytes_moved(plans: Sequence[MergePlan]) -> int:
    """Return the bytes that a group of merges reads together, and those that each writes."""
    return max(one.bytes_read for one in plans) + sum(one.bytes_written for one in plans)
