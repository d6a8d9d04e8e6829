"""Weights of checkpoints by their order."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Final

from ..spec.choices import PAPER
from ..spec.parameters import Parameter, Values

SCHEDULES: Final = ("constant", "linear", "1-sqrt", "minus-sqrt", "ema")
"""The names of the schedules; ``minus-sqrt`` is another name of ``1-sqrt``."""

_DECAY: Final = 0.8


def a_schedule() -> Parameter:
    """Return the schedule; mergekit has none."""
    about = "weights by the order of the models, the oldest first"
    return Parameter("constant", about, choices=SCHEDULES, semantics=(PAPER,), idle="constant")


def a_count() -> Parameter:
    """Return the number of models that a model is the sum of; mergekit has none."""
    about = "sum of the weights of the models that the model is the sum of"
    return Parameter(1.0, about, low=0, per_model=True, semantics=(PAPER,), idle=1.0)


def a_decay() -> Parameter:
    """Return the decay of the schedule ``ema``."""
    about = "share of the average that stays at each step of 'schedule: ema'"
    of_ema = {"schedule": "ema"}
    return Parameter(_DECAY, about, low=0, high=1, semantics=(PAPER,), only_with=of_ema)


def weights_by_order(parameters: Values, n_models: int) -> list[dict[str, float]] | None:
    """Return the weight of each model by the schedule, or None for the schedule ``constant``.

    Raises:
        ValueError: Another schedule than ``ema`` has a decay.
    """
    schedule, decay = parameters.get("schedule", "constant"), parameters.get("decay", _DECAY)
    if schedule != "ema" and decay != _DECAY:
        raise ValueError(
            f"decay: {decay:g} is of the schedule 'ema', and this one is {schedule!r}; leave it "
            "out, or set 'schedule: ema'"
        )
    weights = scheduled_weights(schedule, n_models, decay)
    return None if weights is None else [{"weight": weight} for weight in weights]


def scheduled_weights(schedule: str, n_models: int, decay: float) -> list[float] | None:
    """Return the weights of models from the oldest to the newest, whose sum is 1.

    The method ``linear`` has the formulas. Only sums, products, quotients and square roots take
    part, which round alike everywhere.

    Args:
        schedule: One of ``SCHEDULES``.
        n_models: The number of models.
        decay: The share of the average that stays at each step of ``ema``.

    Returns:
        One weight a model; None for ``constant``, which leaves the weights as they are.

    >>> scheduled_weights("linear", 4, 0.8)
    [0.1, 0.2, 0.3, 0.4]
    """
    if schedule == "constant":
        return None
    if schedule == "linear":
        return [2 * number / (n_models * (n_models + 1)) for number in range(1, n_models + 1)]
    if schedule == "ema":
        powers = [1.0]
        for _ in range(n_models - 1):
            powers.append(powers[-1] * decay)
        return [powers.pop(), *((1 - decay) * power for power in reversed(powers))]
    return [b - a for a, b in pairwise(math.sqrt(j / n_models) for j in range(n_models + 1))]
