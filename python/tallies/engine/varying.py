"""The passes of a merge whose rule varies over the tensors, as parameters of mergekit may."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .._core import CandidateResult, Limits, Plan
from ..methods._method import Method
from ..spec.choices import Semantics
from ..spec.rules import Gate
from .guesses import Reads
from .jobs import Work
from .outcomes import Statistics
from .passes import Passes


def varied(constants: Mapping[str, Any], works: Sequence[Work]) -> list[str]:
    """Return the parameters that have another value than the whole merge's for some tensor."""
    return [
        name
        for name, value in constants.items()
        if any(work.parameters.get(name, value) != value for work in works)
    ]


class VaryingPasses(Passes):
    """Runs the passes of tensors that are merged by several rules, each of which ranks by tensor.

    Args:
        plan: A native plan without jobs, in which the files of the tensors are open.
        works: The tensors.
        method: The method.
        constants: The parameters of the whole merge, where no tensor has others.
        names: The parameters that vary.
        semantics: The author whose variant is meant.
        limits: Threads and buffers.
        options: Further arguments of ``Passes``.
    """

    def __init__(
        self,
        plan: Plan,
        works: Sequence[Work],
        method: type[Method],
        constants: Mapping[str, Any],
        names: Sequence[str],
        semantics: Semantics,
        limits: Limits,
        **options: Any,
    ) -> None:
        whole = method.rule(dict(constants), semantics)
        super().__init__(plan, works, whole, semantics, limits, **options)
        by_values: dict[tuple[Any, ...], Passes] = {}
        self._of: list[Passes] = []
        for work in works:
            own = {name: work.parameters.get(name, constants[name]) for name in names}
            values = tuple(own.values())
            if values not in by_values:
                rule = method.rule({**constants, **own}, semantics)
                made = Passes(plan, works, rule, semantics, limits, **options, adds_jobs=False)
                made.outcomes, made.cancelled = self.outcomes, self.cancelled
                by_values[values] = made
            self._of.append(by_values[values])
        self._all = list(by_values.values())

    @property
    def reads(self) -> Reads:
        """The reads beside those of whole passes, because of guesses, and what was mended."""
        return sum((passes.reads for passes in self._all), self._mended)

    @property
    def bytes_held(self) -> int:
        """The bytes that passes found in memory, where a survey had left them."""
        return sum(passes.bytes_held for passes in self._all)

    def scale(self, factors: Mapping[str, float]) -> None:
        """Multiply the merged task vectors, by tensor, beside the method's own scale."""
        for passes in self._all:
            passes.scale(factors)

    def combine(self, jobs: Sequence[int]) -> None:
        """Merge these tensors and write them, each by its rule."""
        for passes in self._all:
            passes.combine([job for job in jobs if self._of[job] is passes])

    def surveys(self) -> Iterator[tuple[int, Statistics]]:
        """Yield the number of every tensor, and the statistics that its combine needs."""
        for passes in self._all:
            yield from ((job, found) for job, found in passes.surveys() if self._of[job] is passes)

    def merge_stretch(
        self, plan: Plan, job: int, found: Statistics, zero_sign: int, first: int, n: int
    ) -> CandidateResult:
        """Merge ``n`` elements of a tensor from ``first`` on, by its rule and at scale 1."""
        return self._of[job].merge_stretch(plan, job, found, zero_sign, first, n)

    def grain(self, job: int) -> int:
        """Return the elements of which ``first`` in ``merge_stretch`` is a multiple."""
        return self._of[job].grain(job)

    def kept(self, taking: Sequence[Sequence[int]] | None = None) -> list[int]:
        """Return the entries that survive trims, or none where some tensors have no trim.

        Args:
            taking: The experts that take part in each tensor, by its number; None for all.
        """
        if any(passes.rule.gate is not Gate.MAGNITUDE for passes in self._all):
            return []
        return super().kept(taking)
