"""What a method may state: parameters, and one choice each of gate, vote and blend."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from ._gram import Gram

Values = Mapping[str, Any]
"""What checked parameters are set to; of a tensor, resolved for it."""

SEMANTICS = ("paper", "mergekit", "peft", "fusionbench")


class Gate(enum.Enum):
    """Which entries of each task vector stay."""

    ALL = "all"
    MAGNITUDE = "magnitude"
    RANDOM = "random"
    """Each entry by itself with a probability: a function of seed, expert, tensor and element."""
    RANK = "rank"
    """The same, the larger its magnitude among those of its row the more likely."""
    BAND = "band"
    """Those that are neither too small nor too large; ``scope`` may be ``row``."""
    ABOVE = "above"
    """Entries of a magnitude above ``Rule.epsilon``."""
    VARIANCE = "variance"
    """The elements on which the experts differ most; one choice for all experts."""
    SCORE = "score"
    """Entries by a score of their size and their agreement with all experts."""


class Vote(enum.Enum):
    """Who elects the sign of an element."""

    NONE = "none"
    SUM = "sum"
    COUNT = "count"
    UNWEIGHTED_SUM = "unweighted_sum"
    UNWEIGHTED_COUNT = "unweighted_count"


class Blend(enum.Enum):
    """How the survivors of an element become one value."""

    SUM = "sum"
    MEAN = "mean"
    SUM_OF_AGREEING = "sum_of_agreeing"
    MEAN_OF_AGREEING = "mean_of_agreeing"
    WEIGHTED_MEAN_OF_AGREEING = "weighted_mean_of_agreeing"
    LARGEST_AGREEING = "largest_agreeing"
    CLAMPED_MEAN_OF_AGREEING = "clamped_mean_of_agreeing"
    """The weighted one with a divisor of at least 1e-6."""
    ALONE_OR_MEAN = "alone_or_mean"
    """Weight times value where one expert's entry stays, else the mean of those that do."""
    SCORE_WEIGHTED_MEAN = "score_weighted_mean"


BLENDS_OF_AGREEING = {
    "mean": Blend.MEAN_OF_AGREEING,
    "sum": Blend.SUM_OF_AGREEING,
    "max": Blend.LARGEST_AGREEING,
    "weighted_mean": Blend.WEIGHTED_MEAN_OF_AGREEING,
}
"""The blends by the names that ``tallies.kernels`` and fusion_bench give them."""


class Zero(enum.Enum):
    """Which sign an exactly zero vote takes; MAJORITY is that of the scope's elected signs."""

    MAJORITY = "majority"
    POSITIVE = "positive"
    NEGATIVE = "negative"
    DROP = "drop"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method: its default, its range or choices, and one line about it.

    ``per_model`` parameters may be given for each model, and may vary over tensors (a gradient or
    ``filter`` rules); ``per_tensor`` ones may vary over tensors only. A default of None means the
    parameter must be given. With ``choices`` the values are those, with a boolean default they are
    true or false, with a text as default any text, otherwise finite numbers or one of ``words``.
    """

    default: float | str | bool | None
    doc: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    words: tuple[str, ...] = ()
    switch: bool = False
    """False stands for the choice ``none``, true for the default or else the first choice."""
    whole: bool = False
    per_model: bool = False
    per_tensor: bool = False
    aliases: tuple[str, ...] = ()
    semantics: tuple[str, ...] = SEMANTICS
    """The semantics in which the parameter exists."""
    by_semantics: Mapping[str, float | str | bool | None] = field(default_factory=dict)
    """Defaults of the semantics in which they differ."""


@dataclass(frozen=True)
class Scoring:
    """How the entries of ``Gate.SCORE`` are scored."""

    ratio: float
    """The share of an expert's scores that counts."""
    clip: float
    """The share of its magnitudes that is clipped at either end."""
    agreement: str
    """What an entry agrees with: the experts' ``sum``, or their ``signs`` times their sizes."""


@dataclass(frozen=True)
class Coefficients:
    """How the weights of a combine follow from inner products that a survey finds before it."""

    solve: Callable[[Gram, Values], list[float]]
    """From the inner products and the tensor's parameters; ValueError where there is no answer."""
    scope: str = "tensor"
    """What the inner products are of: ``model``, ``tensor``, or ``row`` of the last dimension."""
    magnitudes: bool = False
    """Whether sums of magnitudes are needed as well."""


@dataclass(frozen=True)
class Rule:
    """What the native kernel does with one tensor, and how ranks are counted for it."""

    gate: Gate
    vote: Vote
    blend: Blend
    zero: Zero = Zero.MAJORITY
    scope: str = "model"
    equal: str = "keep"
    rescale: str = "none"
    """What survivors of a stage are multiplied by: ``probability``, the inverse of their chance to
    stay; ``l1``, what restores the sum of magnitudes of each tensor; ``none``."""
    trim: float = 1.0
    """The share of each expert's entries, over the model, that stays of what is drawn."""
    at_least: int = 0
    """Tasks that must claim an element, where the parameters have a ``mask_lambda``."""
    coefficients: Coefficients | None = None
    """Where the weights come from, unless they are given."""
    epsilon: float = 0.0
    scoring: Scoring | None = None
    weights_of_overlap: Callable[[Sequence[int], Sequence[int]], list[float]] | None = None
    """The weights over the scope, of how many entries above epsilon each expert has alone and how
    many it shares."""
    weights_of_squares: Callable[[Sequence[float]], list[float]] | None = None
    """The weights of a tensor, of the mean squares of each expert's deltas that stay."""

    @property
    def n_surveys(self) -> int:
        """Surveys of all values before the combine."""
        if self.gate is Gate.SCORE:
            return 2
        selects = self.gate in (Gate.MAGNITUDE, Gate.VARIANCE)
        solved = (self.weights_of_overlap, self.weights_of_squares, self.coefficients)
        return selects + sum(one is not None for one in solved) or int(self.survey is not None)

    @property
    def survey(self) -> str | None:
        """Over what something is found out before the combine: ``model``, ``tensor`` or nothing."""
        if self.coefficients is not None:
            return "model" if self.coefficients.scope == "model" else "tensor"
        if self.gate is Gate.SCORE or self.trim < 1:
            return "model"
        if self.gate is Gate.MAGNITUDE or self.weights_of_overlap is not None:
            return self.scope
        by_tensor = self.gate is Gate.VARIANCE or (
            self.gate is Gate.BAND and self.scope == "tensor"
        )
        return "tensor" if by_tensor or self.rescale == "l1" else None

    @property
    def by_rows(self) -> bool:
        """Whether an entry is compared with those of its row, along the last dimension."""
        return self.gate is Gate.RANK or (self.gate is Gate.BAND and self.scope == "row")


class Method:
    """A merge method. Subclasses are facts; ``tallies.methods`` lists them."""

    name: ClassVar[str]
    formula: ClassVar[str]
    paper: ClassVar[str]
    needs_base: ClassVar[bool] = True
    base_is_optional: ClassVar[bool] = False
    """Without ``needs_base``: a base that is given is what task vectors are formed from."""
    base_is_first: ClassVar[bool] = False
    """Without ``needs_base``: a base that is given is the first of the models."""
    least_models: ClassVar[int] = 1
    most_models: ClassVar[int | None] = None
    semantics: ClassVar[tuple[str, ...]] = ("paper",)
    has_order: ClassVar[bool] = False
    """Whether the same experts in another order give another result, beyond rounding."""
    keeps_one_expert: ClassVar[bool] = True
    """Whether one expert, untrimmed and unscaled, is the result."""

    integers = Parameter(
        "equal",
        "integer and boolean tensors: the same in all models, or those of the base",
        choices=("equal", "base"),
    )

    @classmethod
    def forms_task_vectors(cls, has_base: bool) -> bool:
        """Whether the base is subtracted from the models, for a merge with or without one."""
        return cls.needs_base or (cls.base_is_optional and has_base)

    @classmethod
    def number_objection(cls, n_models: int) -> str | None:
        """Why so many models, the base not counted, cannot be merged, or None."""
        if cls.least_models <= n_models <= (cls.most_models or n_models):
            return None
        return f"found {n_models}, and {cls.name} merges {cls.number_of_models()}"

    @classmethod
    def number_of_models(cls) -> str:
        """How many models the method merges, in words; the base is not counted."""
        least, most = cls.least_models, cls.most_models
        if most is None:
            return f"at least {least}"
        return f"exactly {least}" if least == most else f"{least} to {most}"

    @classmethod
    def parameters(cls, semantics: str = "paper") -> dict[str, Parameter]:
        """Parameters by name: the method's in the order of the class, then those it inherits."""
        return {
            name: replace(value, default=value.by_semantics.get(semantics, value.default))
            for name, value in own_then_inherited(cls).items()
            if isinstance(value, Parameter) and semantics in value.semantics
        }

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]

    @classmethod
    def rule(cls, parameters: Values, semantics: str) -> Rule:
        """The rule for these (validated) parameters; plain methods ignore both."""
        raise TypeError(f"{cls.__name__} states no rule")

    @classmethod
    def objection(cls, parameters: Values) -> str | None:
        """Why a tensor cannot be merged with these (resolved) parameters, or None."""
        return None


def linear_rule(
    solve: Callable[[Gram, Values], list[float]],
    scope: str = "tensor",
    *,
    magnitudes: bool = False,
) -> Rule:
    """The rule of methods that are a linear combination with coefficients from inner products."""
    return Rule(Gate.ALL, Vote.NONE, Blend.SUM, coefficients=Coefficients(solve, scope, magnitudes))


def own_then_inherited(cls: type) -> dict[str, Any]:
    """The attributes of a class and of those it inherits from, its own first."""
    found: dict[str, Any] = {}
    for one in cls.__mro__:
        for name, value in vars(one).items():
            found.setdefault(name, value)
    return found


def mean_objection(parameters: Values) -> str | None:
    """The objection of methods that divide by the sum of the weights: it must not cancel."""
    weights = parameters["weight"]
    # Below 1e-6 of their size, what remains of the float32 sum is rounding error.
    if parameters["normalize"] and abs(math.fsum(weights)) <= 1e-6 * math.fsum(map(abs, weights)):
        return f"the weights {weights} sum to zero; change them or set 'normalize: false'"
    return None
