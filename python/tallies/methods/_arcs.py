"""The concern of methods of arcs: vectors between which no arc is defined."""

from __future__ import annotations

from ..linalg.gram import Gram
from ..spec.parameters import Values

OPPOSITE = (
    "opposite in two models, between which there is no one arc: the result is near zero, or "
    "follows rounding errors"
)
ZERO = (
    "zero in one of the models and not in all, and so without a direction: the result is longer or "
    "shorter than between others"
)

_NEARLY = 0.9995
_ZERO = 1e-8


def concern(gram: Gram, parameters: Values) -> str | None:
    """Return the reason to doubt the result on an arc between the vectors, or None.

    Args:
        gram: The inner products of the vectors.
        parameters: The parameters of the tensor.
    """
    norms = gram.norms()
    if any(gram.cosine(i, j) < -_NEARLY for i in range(gram.n) for j in range(i)):
        return OPPOSITE
    return ZERO if min(norms) <= _ZERO < max(norms) else None


def concern_of_rows(gram: Gram, parameters: Values) -> str | None:
    """Return the same for one of many rows, among which rows of zeros are ordinary."""
    found = concern(gram, parameters)
    return None if found == ZERO else found
