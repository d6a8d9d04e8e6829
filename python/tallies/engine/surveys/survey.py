"""The contract of a survey: statistics that a combine needs first, found in passes before it.

A module of this folder has one survey, a class that it names ``SURVEY``. A rule names the module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

from ..._core import Threshold, Unit
from ...spec.choices import Scope
from ...spec.parameters import Values
from ...spec.rules import SurveyRule
from ..jobs import Merge
from ..lowering import Tasks
from ..outcomes import Statistics


@dataclass(frozen=True)
class Context:
    """The merge whose tensors are surveyed."""

    merge: Merge
    tasks: Tasks
    """Makes native tasks of the merge's tensors."""

    def n_elements(self, group: Sequence[int]) -> int:
        """Return the number of elements of these tensors together."""
        return sum(self.merge.works[job].n_elements for job in group)


@dataclass(frozen=True)
class Asked:
    """Thresholds that a survey asks for, one unit for each group of tensors."""

    units: Sequence[Unit]
    locate: bool
    """True if equal magnitudes are cut off at the rank."""
    searches: Sequence[Sequence[int]]
    """By unit, the search that each expert's threshold comes from; -1 for none."""
    answer: Callable[[Sequence[Sequence[Threshold]]], list[Statistics]]
    """Returns the statistics of each group from the thresholds of its unit."""


@dataclass(frozen=True, kw_only=True)
class Survey(ABC):
    """A survey. Its fields are the facts that a ``SurveyRule`` states."""

    scope: Scope = Scope.TENSOR
    """``MODEL``: the statistics hold for all tensors together. Otherwise each tensor has its own;
    ``ROW``: each row of its last dimension."""
    solve: Callable[..., list[float]] | None = None
    """Turns statistics into the weights of the combine; each survey says which statistics."""

    title: ClassVar[str] = "survey"
    """The name of the survey in a plan that a person reads."""
    n_searches: ClassVar[int] = 0
    """Thresholds of each expert that are searched in a tensor."""
    can_guess: ClassVar[bool] = False
    """True where the combine can run with guessed thresholds and prove them."""
    ranks_magnitudes: ClassVar[bool] = False
    """True where one selection finds the thresholds of several merges."""

    @property
    def of_model(self) -> bool:
        """True where one set of statistics holds for all tensors."""
        return self.scope is Scope.MODEL

    @property
    def n_passes(self) -> int:
        """The number of passes over all values, if each search takes one."""
        return 1

    def spares(self, parameters: Values) -> bool:
        """Return True if a tensor with these parameters needs one pass less."""
        return False

    def check(  # noqa: B027  most surveys can be taken with any
        self, parameters: Sequence[Values], labels: Sequence[str]
    ) -> None:
        """Raise InputError if the survey cannot be taken with these parameters.

        Args:
            parameters: The resolved parameters of each tensor.
            labels: The experts, as messages name them.
        """

    @abstractmethod
    def take(self, context: Context, groups: Sequence[Sequence[int]]) -> list[Statistics]:
        """Return the statistics of each group of tensors.

        Args:
            context: The merge.
            groups: Numbers of tensors; with the scope ``MODEL`` one group of all, otherwise one
                tensor each.

        Raises:
            InputError: The statistics have no answer.
            StorageError: Reading fails.
        """


class GuessingSurvey(Survey):
    """A survey of thresholds that a combine can guess and prove."""

    can_guess = True

    @abstractmethod
    def ask(self, context: Context, groups: Sequence[Sequence[int]]) -> Asked:
        """Return the thresholds of each group of tensors; arguments are those of ``take``."""


def survey_of(rule: SurveyRule) -> Survey:
    """Return the survey that a rule names, with the facts that it states."""
    module = import_module(f"..{rule.name}", __name__)
    survey: Survey = module.SURVEY(scope=rule.scope, solve=rule.solve, **rule.facts)
    return survey
