"""Parameters that vary over tensors: gradients over layers and ``filter`` rules, as in mergekit.

A setting is plain data, one of

* a number, text or boolean: the same for every tensor;
* a list of them, a gradient: the first at the first layer, the last at the last, numbers
  interpolated linearly between;
* a list of ``{"filter": TEXT, "value": ...}``: the first rule whose filter is part of the tensor's
  name (no filter, or ``*``, fits every name); its value may be a gradient.

A layer is the first number between the dots of a name: ``model.layers.12.mlp.up_proj.weight`` is
layer 12 of ``model.layers``. Its position t is 12 / (n_layers - 1), where ``n_layers`` counts the
layers below the same prefix. Tensors outside the layers (embeddings, final norm, head) have t = 0,
the only layer of its prefix has t = 1. That is where mergekit puts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..messages import did_you_mean, show

Scalar = float | str | bool
Setting = Scalar | list[Any]


def normalise(value: object, scalar: Callable[[object], Scalar]) -> Setting:
    """The setting that ``value`` (data from YAML, JSON or Python) means, in new lists and dicts.

    ``scalar`` checks and converts one value. Raises ValueError where it does, and for empty lists,
    rules with other keys than ``filter`` and ``value``, and rules that no tensor can reach.
    """
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, (list, tuple)):
        return scalar(value)
    if any(isinstance(item, Mapping) for item in value):
        return _rules(value, scalar)
    return _gradient(value, scalar)


def evaluate(setting: Setting, name: str, position: float) -> Scalar | None:
    """The value for tensor ``name`` at ``position`` in [0, 1]; None when no rule fits the name.

    Lists of text or booleans are not interpolated: element ``int(position * (n - 1))``.
    """
    if not isinstance(setting, list):
        return setting
    if isinstance(setting[0], dict):
        for rule in setting:
            if matches(rule["filter"], name):
                return evaluate(rule["value"], name, position)
        return None
    at = position * (len(setting) - 1)
    left = int(at)
    a: Scalar = setting[left]
    b: Scalar = setting[min(left + 1, len(setting) - 1)]
    if isinstance(a, float) and isinstance(b, float):
        fraction = at - left
        return (1 - fraction) * a + fraction * b
    return a


def matches(pattern: str | None, name: str) -> bool:
    """Whether a rule with this filter holds for tensor ``name``."""
    return pattern is None or pattern == "*" or pattern in name


def filters(setting: Setting) -> Iterator[str]:
    """The filters of a setting that do not fit every name."""
    if isinstance(setting, list):
        for rule in setting:
            if isinstance(rule, dict) and rule["filter"] not in (None, "*"):
                yield rule["filter"]


def _gradient(values: Iterable[object], scalar: Callable[[object], Scalar]) -> list[Scalar]:
    gradient = [scalar(value) for value in values]
    if not gradient:
        raise ValueError("found an empty list, expected one value per point of the gradient")
    return gradient


def _rules(items: Iterable[object], scalar: Callable[[object], Scalar]) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = []
    for item in items:
        if rules and rules[-1]["filter"] in (None, "*"):
            raise ValueError("a rule behind one without a filter is never reached; put that last")
        rules.append(_rule(item, scalar))
    return rules


def _rule(item: object, scalar: Callable[[object], Scalar]) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise ValueError(f"found {show(item)} among rules, expected {{filter: TEXT, value: ...}}")
    for key in item:
        if key not in ("filter", "value"):
            hint = did_you_mean(str(key), ("filter", "value"))
            raise ValueError(f"a rule has 'filter' and 'value', found {show(key)}{hint}")
    if "value" not in item:
        raise ValueError(f"the rule {show(dict(item))} has no 'value'")
    pattern, value = item.get("filter"), item["value"]
    if pattern is not None and not isinstance(pattern, str):
        raise ValueError(f"filter: found {show(pattern)}, expected text; write it in quotes")
    try:
        known = _gradient(value, scalar) if isinstance(value, (list, tuple)) else scalar(value)
    except ValueError as problem:
        raise ValueError(f"filter {show(pattern or '*')}: {problem}") from None
    return {"filter": pattern, "value": known}
