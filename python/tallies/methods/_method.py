"""The facts of a method: parameters, and one choice each of gate, vote and blend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import ClassVar

from ..linalg.gram import Gram
from ..spec.choices import PAPER, Scope, Semantics
from ..spec.parameters import Parameter, Values, own_then_inherited
from ..spec.rules import Blend, Gate, Rule, SurveyRule, Vote


class Method:
    """A merge method; each subclass states the facts of one."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    """Names that other tools give the method."""
    formula: ClassVar[str]
    paper: ClassVar[str]
    needs_base: ClassVar[bool] = True
    base_is_optional: ClassVar[bool] = False
    """Task vectors are formed from a base that is given; for methods without ``needs_base``."""
    base_is_first: ClassVar[bool] = False
    """A base that is given is the first of the models; for methods without ``needs_base``."""
    least_models: ClassVar[int] = 1
    most_models: ClassVar[int | None] = None
    semantics: ClassVar[tuple[Semantics, ...]] = (PAPER,)
    has_order: ClassVar[bool] = False
    """The order of the experts changes the result by more than rounding."""
    of_adapters: ClassVar[bool] = False
    """The method merges adapters to an adapter, and no models."""
    copies_alone: ClassVar[bool] = False
    """A tensor of one model with the scale 1 is the model's, whatever its values."""
    keeps_one_expert: ClassVar[bool] = True
    """One expert, untrimmed and unscaled, is the result."""

    integers = Parameter(
        "equal",
        "integer and boolean tensors: the same in all models, or those of the base",
        choices=("equal", "base"),
    )

    @classmethod
    def forms_task_vectors(cls, has_base: bool) -> bool:
        """Return whether a merge with or without a base subtracts the base from the models."""
        return cls.needs_base or (cls.base_is_optional and has_base)

    @classmethod
    def number_objection(cls, n_models: int) -> str | None:
        """Return why so many models, the base not counted, cannot be merged, or None."""
        if cls.least_models <= n_models <= (cls.most_models or n_models):
            return None
        return f"found {n_models}, and {cls.name} merges {cls.number_of_models()}"

    @classmethod
    def number_of_models(cls) -> str:
        """Return the number of models that the method merges, in words; the base is not counted."""
        least, most = cls.least_models, cls.most_models
        if most is None:
            return f"at least {least}"
        return f"exactly {least}" if least == most else f"{least} to {most}"

    @classmethod
    def parameters(cls, semantics: Semantics = PAPER) -> dict[str, Parameter]:
        """Return the parameters of a variant by name: the method's own, then inherited ones."""
        return dict(_parameters(cls, semantics))  # type: ignore[arg-type]

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]

    @classmethod
    def rule(cls, parameters: Values, semantics: Semantics) -> Rule:
        """Return the rule by which the method merges a tensor.

        Args:
            parameters: Checked values of the parameters that hold for the whole merge.
            semantics: The author whose variant of the method to follow.
        """
        raise TypeError(f"{cls.__name__} states no rule")

    @classmethod
    def by_order(cls, parameters: Values, n_models: int) -> list[dict[str, float]] | None:
        """Return the parameters that each model has by its place among the models, or None.

        Args:
            parameters: Checked values of the parameters that hold for the whole merge.
            n_models: The number of models that take part.

        Raises:
            ValueError: The parameters contradict each other; the message says how.
        """
        return None

    @classmethod
    def objection(cls, parameters: Values) -> str | None:
        """Return why a tensor cannot be merged with these resolved parameters, or None."""
        return None


@cache
def _parameters(method: type[Method], semantics: Semantics) -> dict[str, Parameter]:
    found = {}
    for name, value in own_then_inherited(method).items():
        if isinstance(value, Parameter) and semantics in value.semantics:
            low, high = value.range_by_semantics.get(semantics, (value.low, value.high))
            default = value.by_semantics.get(semantics, value.default)
            found[name] = replace(value, default=default, low=low, high=high)
    return found


def linear_rule(
    solve: Callable[[Gram, Values], list[float]],
    scope: Scope = Scope.TENSOR,
    *,
    magnitudes: bool = False,
    concern: Callable[[Gram, Values], str | None] | None = None,
) -> Rule:
    """Return the rule of a linear combination whose coefficients follow from inner products.

    Args:
        solve: The function from the inner products and the tensor's parameters to one coefficient
            a model; a ValueError says that there are none.
        scope: The vectors of the inner products: models, tensors or rows.
        magnitudes: ``solve`` needs the sums of magnitudes too.
        concern: The function from the same to a reason for doubt about the result, of which the
            merge warns once, or to None.
    """
    facts = {"magnitudes": magnitudes, "concern": concern}
    survey = SurveyRule("inner_products", scope, solve, facts)
    return Rule(Gate.ALL, Vote.NONE, Blend.SUM, survey=survey)


def counted_weights(parameters: Values) -> tuple[float, ...]:
    """Return the weights whose sum divides a mean: of a model that is a sum, times its count."""
    weights: tuple[float, ...] = parameters["weight"]
    counts = parameters.get("count", (1.0,) * len(weights))
    return tuple(weight * count for weight, count in zip(weights, counts, strict=True))


def mean_objection(parameters: Values) -> str | None:
    """Return the objection to weights that cancel, for methods that divide by their sum."""
    weights = counted_weights(parameters)
    if parameters["normalize"] and sum(map(abs, weights)) == math.inf:
        return f"the weights {weights} have no finite sum; give smaller ones"
    # A float32 sum below 1e-6 of its terms is rounding error.
    if parameters["normalize"] and abs(math.fsum(weights)) <= 1e-6 * math.fsum(map(abs, weights)):
        return f"the weights {weights} sum to zero; change them or set 'normalize: false'"
    return None
