"""MagMax: the entry of largest magnitude, of the last expert among equal ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .dtype import Array, Floats, ieee
from .select import magnitude_bits
from .sums import Weights, entries
from .task_arithmetic import add_to_base, task_vectors

EXAMPLES = ({}, {"scale": 0.3}, {"scale": -1.0})
"""Parameters with which the method is compared with ``magmax``."""


@ieee
def magmax(
    base: Array, experts: Sequence[Array], weights: Weights = None, scale: float = 1.0
) -> Array:
    """base + scale * y of largest magnitude; NaN is larger than any number."""
    return add_to_base(base, scale, largest(entries(task_vectors(base, experts), weights)))


def largest(entries: Floats) -> Floats:
    """The entry of largest magnitude, of equal ones the last; NaN is larger than any number."""
    found = np.zeros(entries.shape[1:], np.float32)
    for y in entries:
        found = np.where(magnitude_bits(y) >= magnitude_bits(found), y, found)
    return found
