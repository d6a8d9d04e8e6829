"""What a method may state: parameters, and one choice each of gate, vote and blend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from ..linalg.gram import Gram
from ..spec.choices import PAPER, Scope, Semantics
from ..spec.parameters import Parameter, Values, own_then_inherited
from ..spec.rules import Blend, Coefficients, Gate, Rule, Vote


class Method:
    """A merge method. Subclasses are facts; ``tallies.methods`` lists them."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    """Names that other tools give the method."""
    formula: ClassVar[str]
    paper: ClassVar[str]
    needs_base: ClassVar[bool] = True
    base_is_optional: ClassVar[bool] = False
    """Without ``needs_base``: a base that is given is what task vectors are formed from."""
    base_is_first: ClassVar[bool] = False
    """Without ``needs_base``: a base that is given is the first of the models."""
    least_models: ClassVar[int] = 1
    most_models: ClassVar[int | None] = None
    semantics: ClassVar[tuple[Semantics, ...]] = (PAPER,)
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
    def parameters(cls, semantics: Semantics = PAPER) -> dict[str, Parameter]:
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
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        """The rule for these (validated) parameters; plain methods ignore both."""
        raise TypeError(f"{cls.__name__} states no rule")

    @classmethod
    def objection(cls, parameters: Values) -> str | None:
        """Why a tensor cannot be merged with these (resolved) parameters, or None."""
        return None


def linear_rule(
    solve: Callable[[Gram, Values], list[float]],
    scope: Scope = Scope.TENSOR,
    *,
    magnitudes: bool = False,
) -> Rule:
    """The rule of methods that are a linear combination with coefficients from inner products."""
    return Rule(Gate.ALL, Vote.NONE, Blend.SUM, coefficients=Coefficients(solve, scope, magnitudes))


def mean_objection(parameters: Values) -> str | None:
    """The objection of methods that divide by the sum of the weights: it must not cancel."""
    weights = parameters["weight"]
    # Below 1e-6 of their size, what remains of the float32 sum is rounding error.
    if parameters["normalize"] and abs(math.fsum(weights)) <= 1e-6 * math.fsum(map(abs, weights)):
        return f"the weights {weights} sum to zero; change them or set 'normalize: false'"
    return None
