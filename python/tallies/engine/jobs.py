"""States the tensors of a merge: their places, and their parameters in numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._core import Limits, Plan
from ..floats import float32, float32_sum
from ..spec.choices import Semantics
from ..spec.rules import Rule
from .files import Operand, Place


@dataclass(frozen=True)
class Work:
    """One tensor to merge."""

    name: str
    n_elements: int
    inputs: tuple[Operand, ...]
    """The base, for methods that have one, then the experts."""
    outputs: tuple[Place, ...]
    weights: tuple[float, ...]
    densities: tuple[float, ...]
    """The share of each expert's entries that survives; empty where the gate lets all pass."""
    scale: float
    n_input_bytes: int
    lambdas: tuple[float, ...] = ()
    """The lambdas of the masks by which experts claim elements; empty without a consensus."""
    shape: tuple[int, ...] = ()
    row_length: int = 1
    """The elements of the last dimension; of all, where there is but one dimension."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The method's parameters for this tensor, from which coefficients are solved."""
    gammas: tuple[float, ...] = ()
    """The share of each expert's entries that is too large, for bands."""
    epsilons: tuple[float, ...] = ()
    """The difference of chances from the density, for chances by rank."""
    select: float = 1.0
    """The share of the elements on which the experts differ that stays under the variance gate."""
    divisor: float | None = None
    """The divisor of a mean, if that is not the sum of the weights."""


@dataclass(frozen=True)
class Merge:
    """The tensors of a merge, the rule for them, and the limits of its passes."""

    plan: Plan
    works: Sequence[Work]
    """The jobs of the plan, in the order in which equal magnitudes are preferred."""
    rule: Rule
    semantics: Semantics
    limits: Limits
    labels: Sequence[str]
    """The experts, as messages name them."""
    has_base: bool = True
    seed: int = 0
    progress: Callable[[int], object] | None = None

    def n_experts(self, job: int) -> int:
        """Return the number of experts that take part in a tensor."""
        return len(self.works[job].inputs) - self.has_base


def settings(values: Mapping[str, Any], n_experts: int) -> dict[str, Any]:
    """Return the fields of a ``Work`` that follow from a tensor's resolved parameters.

    A density beyond 0 to 1, as mergekit takes it, is the nearer end. Weights, scale and share are 1
    where the method has no such parameter; a distance ``t`` between models stands for weights.
    """
    epsilons = values.get("epsilon", ())
    scale = values.get("scale", 1.0)
    # A scale of each model is a factor on its values, as a weight is.
    weights = scale if isinstance(scale, tuple) else (values.get("t", 1.0),) * n_experts
    return {
        "weights": values.get("weight", weights),
        "densities": tuple(min(max(one, 0.0), 1.0) for one in values.get("density", ())),
        "scale": 1.0 if isinstance(scale, tuple) else scale,
        "lambdas": values.get("mask_lambda", ()),
        "gammas": values.get("gamma", ()),
        "epsilons": epsilons if isinstance(epsilons, tuple) else (),
        "select": values.get("select_topk", 1.0),
        "parameters": values,
        "divisor": _divisor(values),
    }


def _divisor(values: Mapping[str, Any]) -> float | None:
    """Return the divisor of a mean of models some of which are sums; None where none is one."""
    counts = values.get("count", ())
    if all(count == 1 for count in counts):
        return None
    pairs = zip(values["weight"], counts, strict=True)
    return float32_sum([float32(weight) * count for weight, count in pairs])
