"""The probability by rank in a row that an entry survives, in ``della`` and ``della_linear``."""

from __future__ import annotations

from ..spec.choices import MERGEKIT
from ..spec.parameters import Parameter, Values

CITATION = "Deep et al. 2024, arXiv 2406.11617"

DENSITY = Parameter(
    0.7,
    "mean probability that an entry survives",
    low=0,
    high=1,
    per_model=True,
    by_semantics={MERGEKIT: 1.0},
    range_by_semantics={MERGEKIT: (None, None)},
)
EPSILON = Parameter(
    0.07,
    "largest difference of the probability from density",
    low=0,
    high=1,
    per_model=True,
    by_semantics={MERGEKIT: 0.15},
)


def chance_objection(parameters: Values) -> str | None:
    """Return why density +- epsilon are no probabilities, or None."""
    for density, epsilon in zip(parameters["density"], parameters["epsilon"], strict=True):
        if 0 < density < 1 and not epsilon < min(density, 1 - density):
            return (
                f"density {density:g} +- epsilon {epsilon:g} is not between 0 and 1; give an "
                f"epsilon below {min(density, 1 - density):g}, or density 0 or 1"
            )
    return None
