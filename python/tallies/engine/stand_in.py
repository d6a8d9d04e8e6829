"""The plan as one of several merges sees it: a pass is asked for, and taken for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._core import CancelledVotes, CombineTask, Limits, Mended, Unit
from .joint_guesses import Guessing, SettledShare, Share
from .operands import Place
from .shared_plan import SharedPlan
from .side_by_side import Ask
from .waiting import (
    Holding,
    OneResult,
    Settling,
    Sure,
    Survey,
    Unmended,
    WaitingCombine,
    Wrong,
    key_of,
)


class StandIn:
    """A plan as one of the merges sees it; in the place of a native plan.

    Args:
        shared: The plan that all of them share.
        number: The number of the merge.
        ask: Asks for a pass and waits for its result.
        of_model: True where cancelled votes take the majority of the signs of all tensors.
    """

    def __init__(self, shared: SharedPlan, number: int, ask: Ask, *, of_model: bool) -> None:
        self._shared, self._number, self._ask = shared, number, ask
        self._of_model = of_model
        self.open_to_read = shared.plan.open_to_read
        self.open_to_write = shared.plan.open_to_write
        self.write = shared.plan.write
        self.close = shared.plan.close
        self.find_nonfinite = shared.plan.find_nonfinite

    def add_job(self, n_elements: int, inputs: Sequence[Any], outputs: Sequence[Place]) -> None:
        """Add a tensor, of which this merge writes its own result."""
        self._shared.add(self._number, n_elements, inputs, outputs)

    def hold(self, *, jobs: Sequence[int], n_bytes: int) -> list[int]:
        """Keep tensors in memory, if all merges that want to keep some are at the same ones."""
        found: list[int] = self._ask(Holding(tuple(jobs), n_bytes))
        return found

    def combine(
        self,
        *,
        tasks: Sequence[CombineTask],
        gate: int,
        vote: int,
        blend: int,
        fingerprints: bool = False,
        stop_at_overflow: bool = False,
        limits: Limits,
        progress: object = None,
        guesses: Share | None = None,
        cancelled: CancelledVotes | None = None,
    ) -> list[OneResult]:
        """Merge tasks and write them, one result each."""
        rule = (gate, vote, blend)
        lists_votes = cancelled is not None
        asked = WaitingCombine(
            *(tasks, rule, fingerprints, stop_at_overflow, limits, self._of_model, lists_votes)
        )
        asked.is_guess = guesses is not None
        asked.left = {key_of(task): task for task in tasks}
        if tasks:
            self._ask(asked)
        if guesses is not None:
            guesses.proofs += [asked.proofs[key_of(task)] for task in tasks]
        return [asked.results[key_of(task)] for task in tasks]

    def guess(
        self,
        *,
        units: Sequence[Unit],
        locate: bool,
        limits: Limits,
        data: bytes | None = None,
        progress: object = None,
    ) -> Share | Sure:
        """Guess thresholds together with other merges, or find them in a read of the inputs."""
        found: Share | Sure = self._ask(Guessing(units, locate, limits, data))
        return found

    def settle(
        self,
        *,
        guesses: Share,
        limits: Limits,
        progress: object = None,
        cancelled: CancelledVotes | None = None,
    ) -> SettledShare:
        """Make guesses exact, once all merges that share them have combined with them."""
        found: SettledShare = self._ask(Settling(limits))
        return found

    def mend(
        self,
        *,
        cancelled: CancelledVotes,
        wrong: Sequence[Wrong],
        limits: Limits,
        progress: object = None,
    ) -> list[Mended | Unmended]:
        """Write elements of this merge with the other sign, from lists that all merges share."""
        return self._shared.mend(self._number, wrong, limits)

    def __getattr__(self, name: str) -> Any:
        def survey(**options: Any) -> Any:
            options.pop("progress", None)
            return self._ask(Survey(name, options))

        return survey
