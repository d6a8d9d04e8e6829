"""Evaluate parameters that vary over tensors by gradients and ``filter`` rules, as in mergekit.

A setting is plain data, one of

* a number, text or boolean: the same for every tensor;
* a list of them, a gradient: the first at the first layer, the last at the last, numbers
  interpolated linearly between;
* a list of ``{"filter": TEXT, "value": ...}``: the first rule whose filter is part of the tensor's
  name (no filter, or ``*``, fits every name); its value may be a gradient.

``layers`` says which layer a tensor is in.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final, TypeGuard

from ..messages import did_you_mean, show, some

# Names of heads that checkpoints of tied models lack.
_HEADS: Final = ("lm_head.weight", "embed_out.weight")

NOT_MERGED: Final = "a tied one follows its other name, a copied one has no parameters"

_MOST_PARTS: Final = 20_000

Scalar = float | str | bool
Setting = Scalar | list[Any]


def normalise(value: object, scalar: Callable[[object], Scalar]) -> Setting:
    """Return a setting in new lists and dicts.

    Args:
        value: Data from YAML, JSON or Python.
        scalar: The function that checks and converts one value; its ValueError is passed on.

    Raises:
        ValueError: A list is empty, a rule has other keys than ``filter`` and ``value``, or no
            tensor can reach a rule.
    """
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, (list, tuple)):
        return scalar(value)
    if any(isinstance(item, Mapping) for item in value):
        return _rules(value, scalar)
    return _gradient(value, scalar)


def evaluate(setting: Setting, name: str, position: float) -> Scalar | None:
    """Return the value of a setting for one tensor.

    Args:
        setting: The setting, as ``normalise`` returns it.
        name: The tensor's name.
        position: The position of the tensor's layer, in [0, 1].

    Returns:
        The value, or None when no rule fits the name. Numbers are interpolated linearly; of a list
        of texts or booleans, element ``int(position * (n - 1))`` holds.
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
    if _is_number(a) and _is_number(b):
        fraction = at - left
        return (1 - fraction) * a + fraction * b
    return a


def _is_number(value: Scalar) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def matches(pattern: str | None, name: str) -> bool:
    """Return whether a rule with this filter holds for tensor ``name``."""
    return pattern is None or pattern == "*" or pattern in name


def never_lacks(setting: Setting | None) -> bool:
    """Return whether a setting is given and has a value for every tensor's name."""
    if not isinstance(setting, list) or not isinstance(setting[0], dict):
        return setting is not None
    return setting[-1]["filter"] in (None, "*")


def is_flat(setting: Setting, positions: Mapping[str, float]) -> bool:
    """Tell if a setting has gradients, and each of them is one value for all tensors it holds for.

    Args:
        setting: The setting, as ``normalise`` returns it.
        positions: The position of the layer of each tensor, by the tensor's name.
    """
    rules = setting if isinstance(setting, list) else []
    if not rules or not isinstance(rules[0], dict):
        rules = [{"filter": None, "value": setting}]
    gradients = [
        (rule["filter"], rule["value"])
        for rule in rules
        if isinstance(rule["value"], list) and len(set(rule["value"])) > 1
    ]
    return bool(gradients) and all(
        len({evaluate(value, name, at) for name, at in positions.items() if matches(pattern, name)})
        == 1
        for pattern, value in gradients
    )


def filters(setting: Setting) -> Iterator[str]:
    """Yield the filters of a setting that do not fit every name."""
    if isinstance(setting, list):
        for rule in setting:
            if isinstance(rule, dict) and rule["filter"] not in (None, "*"):
                yield rule["filter"]


def stray(
    setting: Setting, names: Collection[str], others: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """Yield the filters of a setting that fit no name of a merged tensor, and what may be meant.

    Args:
        setting: The setting.
        names: The names of the merged tensors.
        others: Names of the models that are not merged by themselves, such as tied ones.

    Yields:
        The filter, and ``""`` where the filter fits one of the other names, or an output head that
        can be tied; else the nearest parts of names, in words.
    """
    for pattern in filters(setting):
        if any(matches(pattern, name) for name in names):
            continue
        if any(matches(pattern, name) for name in (*others, *_HEADS)):
            yield pattern, ""
        else:
            yield pattern, nearest(pattern, names)


def nearest(pattern: str, names: Iterable[str]) -> str:
    """Return the parts of names that come nearest to a filter, in words."""
    n_parts = pattern.strip(".").count(".") + 1
    parts: dict[str, None] = {}
    for name in names:
        words = name.split(".")
        for first in range(len(words) - n_parts + 1):
            parts[".".join(words[first : first + n_parts])] = None
            if len(parts) > _MOST_PARTS:
                break
    near = difflib.get_close_matches(pattern.strip("."), parts, n=3, cutoff=0.5) or [*parts]
    return f"the nearest names are {some(near)}" if near else "there are no tensors"


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
