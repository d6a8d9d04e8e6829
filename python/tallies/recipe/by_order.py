"""Give models the parameters that follow from their order, such as the weights of a schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import InputError
from ..methods._method import Method
from .settings import Setting


def with_order(
    method: type[Method],
    shared: Mapping[str, Setting],
    models: Sequence[Mapping[str, Setting]],
    labels: Sequence[str],
) -> list[dict[str, Setting]]:
    """Return the parameters of each model, with those that follow from its place among them.

    Args:
        method: The merge method.
        shared: Checked parameters of all models.
        models: Checked parameters of each model, in order.
        labels: The models' names in messages.

    Raises:
        InputError: A value that was given contradicts the order, or another value.
    """
    try:
        found = method.by_order(shared, len(models))
    except ValueError as problem:
        raise InputError(f"parameters: {problem}") from None
    if found is None:
        return [dict(own) for own in models]
    for own, ordered, label in zip(models, found, labels, strict=True):
        for key, value in ordered.items():
            given = own.get(key, shared.get(key, value))
            if given != value:
                where = label if key in own else "parameters"
                schedule = shared["schedule"]
                raise InputError(
                    f"{where}: {key}: found {given}, and 'schedule: {schedule}' gives {label} "
                    f"{value!r}; leave one of the two out"
                )
    return [{**own, **ordered} for own, ordered in zip(models, found, strict=True)]


def refuse_order(method: type[Method], shared: Mapping[str, Setting], where: str) -> None:
    """Refuse parameters that follow from the order of models for sources of slices.

    Raises:
        InputError: The shared parameters ask for them.
    """
    try:
        found = method.by_order(shared, 2)
    except ValueError as problem:
        raise InputError(f"{where}: {problem}") from None
    if found is not None:
        raise InputError(
            f"{where}: schedule: {shared['schedule']} orders whole models, and this recipe stacks "
            "layers of slices; give each source its weight"
        )
