"""What is to be done: the tensors of a merge, their parameters in numbers, and how they merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._core import Limits, Plan
from ..spec.choices import Semantics
from ..spec.rules import Rule
from .files import Operand, Place


@dataclass(frozen=True)
class Work:
    """One tensor to merge: where its values lie and what its parameters are."""

    name: str
    n_elements: int
    inputs: tuple[Operand, ...]
    """The base, for methods that have one, then the experts."""
    outputs: tuple[Place, ...]
    weights: tuple[float, ...]
    densities: tuple[float, ...]
    """Empty for rules whose gate lets all entries pass."""
    scale: float
    n_input_bytes: int
    lambdas: tuple[float, ...] = ()
    """Of the masks by which the experts claim elements; empty for rules without a consensus."""
    shape: tuple[int, ...] = ()
    row_length: int = 1
    """Elements of the last dimension; of all, where there is but one dimension."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The method's parameters for this tensor, from which coefficients are solved."""
    gammas: tuple[float, ...] = ()
    """Shares that are too large, for the band."""
    epsilons: tuple[float, ...] = ()
    """How far chances differ from the density, for chances by rank."""
    select: float = 1.0
    """The share of the elements on which the experts differ that stays under the variance gate."""
    divisor: float | None = None
    """What a mean divides by, if that is not the sum of the weights."""


@dataclass(frozen=True)
class Merge:
    """What is merged and how, and within which limits."""

    plan: Plan
    works: Sequence[Work]
    """In the order in which equal magnitudes are preferred; jobs of the plan."""
    rule: Rule
    semantics: Semantics
    limits: Limits
    labels: Sequence[str]
    """The experts, as messages name them."""
    has_base: bool = True
    seed: int = 0
    progress: Callable[[int], object] | None = None


def settings(values: Mapping[str, Any], n_experts: int) -> dict[str, Any]:
    """What a Work takes of a tensor's resolved parameters; 1 for what the method does not have."""
    epsilons = values.get("epsilon", ())
    return {
        "weights": values.get("weight", (1.0,) * n_experts),
        "densities": values.get("density", ()),
        "scale": values.get("scale", 1.0),
        "lambdas": values.get("mask_lambda", ()),
        "gammas": values.get("gamma", ()),
        "epsilons": epsilons if isinstance(epsilons, tuple) else (),
        "select": values.get("select_topk", 1.0),
        "parameters": values,
    }
