"""Say where mergekit reads a recipe differently that does not choose the semantics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..methods._method import Method
from ..spec.choices import MERGEKIT, PAPER, Scope
from ..spec.parameters import Parameter
from ..spec.rules import Blend, Gate, Rule
from .config import MergeConfig
from .modifiers import KEYS
from .settings import Setting, never_lacks

_BY_WEIGHT = {Blend.MEAN_OF_AGREEING: False, Blend.WEIGHTED_MEAN_OF_AGREEING: True}
"""True for the mean that divides by the weights, False for the one that divides by the number."""

_RANKED = {Scope.MODEL: "over the whole model", Scope.TENSOR: "by tensor", Scope.ROW: "by row"}


def unsaid(config: MergeConfig, used: MergeConfig | None = None) -> str | None:
    """Return the warning that mergekit reads this recipe differently, or None.

    A recipe that chooses the semantics, or that has what mergekit's recipes cannot have, means what
    it says. Differences that only rounding or equal values show are passed over.

    Args:
        config: The recipe as it was given.
        used: The recipe with defaults that its values have changed.
    """
    method = config.method
    if "semantics" in config.model_fields_set or MERGEKIT not in method.semantics:
        return None
    ours, theirs = method.parameters(PAPER), method.parameters(MERGEKIT)
    experts = config.own_parameters()
    given = {key for one in (config.parameters, *experts) for key in one}
    if given - theirs.keys() or any(getattr(config, key) is not None for key in KEYS):
        return None
    found = [
        f"{name} {_word(parameter)} ({_word(theirs[name])})"
        for name, parameter in ours.items()
        if name in theirs and not _is_given(name, config.parameters, experts)
        if parameter.default != theirs[name].default
    ]
    found += _rules(used or config, method, experts)
    if not found:
        return None
    return (
        "semantics: the recipe names none, so it is read as the paper says, and not as mergekit "
        f"does (in brackets): {', '.join(found)}; 'semantics: mergekit' or --semantics mergekit "
        "gives mergekit's result, 'semantics: paper' says that this one is meant"
    )


def _rules(
    config: MergeConfig, method: type[Method], experts: Sequence[Mapping[str, Setting]]
) -> Iterator[str]:
    """Yield what differs whatever the parameters' defaults are."""
    theirs = method.parameters(MERGEKIT)
    ours = method.rule(config.constants(), PAPER)
    defaults = {key: one.default for key, one in theirs.items()}
    theirs_given = {key: one for key, one in config.parameters.items() if key in theirs}
    other = method.rule({**defaults, **theirs_given}, MERGEKIT)
    densities = _values("density", method.parameters(PAPER), config.parameters, experts)
    if _ranks(ours) and ours.scope is not other.scope and densities != {1.0}:
        yield f"entries ranked {_RANKED[ours.scope]} ({_RANKED[other.scope]})"
    weights = _values("weight", method.parameters(PAPER), config.parameters, experts)
    divisors = _BY_WEIGHT.get(ours.blend), _BY_WEIGHT.get(other.blend)
    if divisors == (False, True) and weights != {1.0}:
        yield "weights not divided out (divided by their sum)"


def _ranks(rule: Rule) -> bool:
    return rule.gate in (Gate.MAGNITUDE, Gate.BAND)


def _is_given(
    name: str, shared: Mapping[str, Setting], experts: Sequence[Mapping[str, Setting]]
) -> bool:
    return name in shared or all(never_lacks(one.get(name)) for one in experts)


def _values(
    name: str,
    parameters: Mapping[str, Parameter],
    shared: Mapping[str, Setting],
    experts: Sequence[Mapping[str, Setting]],
) -> set[Any]:
    """Return the values of a parameter, settings that vary by their text."""
    if name not in parameters:
        return {1.0}
    default = shared.get(name, parameters[name].default)
    found = [one.get(name, default) for one in experts]
    return {str(one) if isinstance(one, list) else one for one in found}


def _word(parameter: Parameter) -> str:
    value = parameter.default
    if value is None:
        return "required"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
