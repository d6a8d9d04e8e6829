"""The order of a merge: one for tensors on disk and in memory.

Layers are dropped, thresholds or weights over the whole model are found, the merged task vectors
get their factors, groups of tensors are combined, and cancelled votes take the majority's sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .._core import Limits, Plan
from ..engine.jobs import Work
from ..engine.kinds import passes_for
from ..engine.outcomes import Outcome, Statistics
from ..engine.surveys.survey import Survey
from ..errors import InputError
from ..messages import counted, some
from ..methods._matrix import MatrixMethod
from ..methods._method import Method
from ..recipe.modifiers import Modifiers
from ..spec.choices import Nonfinite, Semantics


@dataclass(frozen=True)
class Request:
    """A merge as it was asked for, wherever its tensors lie."""

    method: type[Method]
    constants: Mapping[str, Any]
    """The parameters that hold for all tensors and models."""
    semantics: Semantics
    modifiers: Modifiers
    names: Sequence[str]
    """The tensors to merge."""
    labels: Sequence[str]
    """The experts, as messages name them."""
    has_base: bool
    seed: int
    nonfinite: Nonfinite


def can_guess(method: type[Method], modifiers: Modifiers, survey: Survey | None) -> bool:
    """Return True if the combine proves guessed thresholds in the place of a survey."""
    needs_first = issubclass(method, MatrixMethod) or modifiers.needs_norms
    return survey is not None and survey.can_guess and not (needs_first and survey.of_model)


def n_surveys(
    method: type[Method], modifiers: Modifiers, survey: Survey | None, *, in_memory: bool = False
) -> int:
    """Return the passes over all values before the combine, if each search takes one pass.

    Args:
        method: The merge method.
        modifiers: The merge's modifiers.
        survey: The survey that the method names.
        in_memory: True where no tensor lies on disk.
    """
    if survey is None:
        return modifiers.n_surveys
    surveyed = in_memory or not can_guess(method, modifiers, survey)
    # The survey of norms merges, and so needs what the surveys of each tensor find.
    again = modifiers.needs_norms and not survey.of_model
    return modifiers.n_surveys + (surveyed + again) * survey.n_passes


class Findings:
    """The findings that hold over all tensors; empty until their survey is taken."""

    def __init__(self) -> None:
        self.model = Statistics()
        """The statistics of the model."""
        self.dropped: list[list[str]] | None = None
        """For each expert, the layers of its task vector that are left out."""
        self.alpha: float | None = None
        """The factor of the first layer, where it follows from norms."""
        self.guess: bytes | None = None
        """The guessed statistics of the model and their counts, until they are settled."""

    def record_model(self, found: Statistics, changed: Mapping[int, Outcome] | None = None) -> None:
        """Note the statistics of the model, and outcomes that changed when these were settled."""
        self.model = found

    def record_dropped(self, dropped: list[list[str]]) -> None:
        """Note the layers that each expert loses."""
        self.dropped = dropped

    def record_alpha(self, alpha: float) -> None:
        """Note the factor of the first layer."""
        self.alpha = alpha


class Steps:
    """Takes the steps of a merge.

    Args:
        request: The merge.
        plan: A native plan without jobs, in which inputs and outputs are open.
        open_plan: Makes plans without jobs, with a base, in which the inputs are open.
        works: The tensors to merge, in the order of ``request.names``.
        findings: The findings of an earlier run, or none; gets those of this run.
        limits: Threads and buffers of the passes.
        n_workers: Threads that merge whole matrices.
        max_bytes: Memory for the matrices in hand; None for any.
        fingerprints: True if fingerprints of inputs and outputs are needed.
        objections: Yields the reasons why a tensor, by its number, got NaN or infinite values.
        progress: Is called with the bytes moved since the last call.
        in_memory: True where no tensor lies on disk.
        lists_arrays: True where cancelled votes of results in memory are listed, too.

    Raises:
        InputError: A step finds values or parameters that cannot be merged.
        StorageError: Reading or writing fails.
    """

    def __init__(
        self,
        request: Request,
        plan: Plan,
        open_plan: Callable[[], Plan],
        works: Sequence[Work],
        findings: Findings,
        limits: Limits,
        *,
        n_workers: int,
        max_bytes: int | None = None,
        fingerprints: bool = False,
        objections: Callable[[int], Iterator[str]],
        progress: Callable[[int], object] | None = None,
        in_memory: bool = False,
        lists_arrays: bool = False,
    ) -> None:
        self._request = request
        self._open_plan = open_plan
        self._findings = findings
        self._limits = limits
        self._objections = objections
        self._progress = progress
        self.works = self._drop_layers(works)
        refuses = request.nonfinite is Nonfinite.ERROR
        self.passes = passes_for(
            request.method,
            plan,
            self.works,
            request.constants,
            request.semantics,
            limits,
            n_workers=n_workers,
            max_bytes=max_bytes,
            labels=request.labels,
            has_base=request.has_base,
            seed=request.seed,
            fingerprints=fingerprints,
            stop_at_overflow=refuses,
            report_overflow=partial(_refuse, objections) if refuses else None,
            progress=progress,
            in_memory=in_memory,
            lists_arrays=lists_arrays,
        )
        self.passes.model = findings.model

    def run(
        self,
        groups: Iterable[Sequence[int]],
        finish: Callable[[int], object] = lambda group: None,
    ) -> None:
        """Merge groups of tensors, each a sequence of numbers of works.

        ``finish`` is called with the number of each group, once the group's tensors are written but
        for votes that were guessed.
        """
        self._survey()
        self.passes.scale(self._request.modifiers.factors(self._request.names, self._alpha()))
        for number, jobs in enumerate(groups):
            self.passes.combine(jobs)
            finish(number)
        self._settle()
        self.passes.settle_majority()

    def warnings(self) -> list[str]:
        """Return the concerns about tensors, a line for each reason, and what is not finite.

        Merged tensors that are not finite are told if they are to be warned of. Tensors come in the
        order of their numbers.
        """
        outcomes = sorted(self.passes.outcomes.items())
        concerns: dict[str, list[str]] = {}
        for job, one in outcomes:
            if one.concern is not None:
                concerns.setdefault(one.concern, []).append(self.works[job].name)
        found = [
            f"{self._request.method.name}: {counted(len(names), 'tensor')} {why}: {some(names)}"
            for why, names in concerns.items()
        ]
        if self._request.nonfinite is Nonfinite.WARN:
            found += [why for job, one in outcomes if one.overflow for why in self._objections(job)]
        return found

    def _drop_layers(self, works: Sequence[Work]) -> Sequence[Work]:
        """Put the base in the place of the experts in the layers that they lose."""
        request, findings = self._request, self._findings
        modifiers = request.modifiers
        if modifiers.drop_layers is None:
            return works
        from .layer_dropping import choose, without

        if findings.dropped is None:
            n_experts = len(request.labels)
            findings.record_dropped(
                choose(modifiers, self._open_plan(), works, n_experts, self._limits, self._progress)
            )
        return without(works, findings.dropped or [], modifiers.layers(request.names))

    def _survey(self) -> None:
        """Find or guess the statistics of the model, unless an earlier run has found them."""
        passes = self.passes
        if not passes.by_model or passes.model or not self.works:
            return
        if passes.guesses and not self._request.modifiers.needs_norms:
            passes.guess_model(self._findings.guess)
        else:
            passes.survey_model()
        if not passes.is_guessing:
            self._findings.record_model(passes.model)

    def _settle(self) -> None:
        """Make guessed statistics of the model exact, and what was combined with them right."""
        if self.passes.is_guessing:
            changed = self.passes.settle_guess()
            outcomes = {job: self.passes.outcomes[job] for job in changed}
            self._findings.record_model(self.passes.model, outcomes)

    def _alpha(self) -> float | None:
        if not self._request.modifiers.needs_norms:
            return None
        if self._findings.alpha is None:
            from .layer_scaling import find_alpha

            self._findings.record_alpha(
                find_alpha(self._open_plan, self.works, self.passes, self._limits, self._progress)
            )
        return self._findings.alpha


# No method of the steps, which hold the passes: a circle would keep files open for longer.
def _refuse(objections: Callable[[int], Iterator[str]], job: int) -> None:
    raise InputError(next(objections(job)))
