"""Weigh the checkpoints of a run so that their mean stands for a decay of the learning rate.

Between two checkpoints a run adds the updates of some steps. A weighted mean of checkpoints holds
the updates before checkpoint i with the sum of the weights from i on: as if the learning rate had
been multiplied by it. A decay f from f(0) = 1 to f(1) = 0 over n checkpoints so gives checkpoint i,
counted from 0, the weight f(i / n) - f((i + 1) / n). Tian et al., WSM, arXiv 2507.17634.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Final

from ..errors import InputError
from ..messages import unknown

DECAYS: Final[dict[str, Callable[[float], float]]] = {
    "constant": lambda x: 1.0 - x,
    "linear": lambda x: 1.0 - x,
    "1-sqrt": lambda x: 1.0 - math.sqrt(x),
    "minus-sqrt": lambda x: 1.0 - math.sqrt(x),
    "exponential": lambda x: 2.0 * 0.5**x - 1.0,
    "cosine": lambda x: 0.5 * (1.0 + math.cos(math.pi * x)),
}
"""The decays by name. The weights of a linear decay are constant, so both names mean the mean;
``minus-sqrt`` is Megatron's name of ``1-sqrt``. An exponential decay ends at 0 as in Megatron."""


def checkpoint_weights(schedule: str, n_checkpoints: int) -> list[float]:
    """Return the weight of each checkpoint, the oldest first.

    Args:
        schedule: The name of a decay.
        n_checkpoints: The number of checkpoints, 1 or more.

    Returns:
        Weights that are positive and sum to 1.

    Raises:
        InputError: There is no such schedule.

    >>> [round(weight, 3) for weight in checkpoint_weights("1-sqrt", 4)]
    [0.5, 0.207, 0.159, 0.134]
    """
    if schedule not in DECAYS:
        raise InputError(f"schedule {unknown(schedule, DECAYS)}")
    decay = DECAYS[schedule]
    at = [decay(i / n_checkpoints) for i in range(n_checkpoints)] + [0.0]
    return [before - after for before, after in itertools.pairwise(at)]
