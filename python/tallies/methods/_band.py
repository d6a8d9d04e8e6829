"""The band of magnitudes that survives in ``breadcrumbs`` and ``breadcrumbs_ties``."""

from __future__ import annotations

from ..spec.choices import MERGEKIT, PAPER, Rescale, Scope
from ..spec.parameters import Parameter
from ._parameters import a_density

CITATION = "Davari and Belilovsky 2023, arXiv 2312.06795"

DENSITY = a_density(0.15, by_semantics={MERGEKIT: 1.0})
GAMMA = Parameter(
    0.006,
    "share of the largest entries that is dropped",
    low=0,
    high=1,
    per_model=True,
    by_semantics={MERGEKIT: 0.01},
)
SCOPE = Parameter(
    Scope.ROW, "entries ranked together", choices=(Scope.ROW, Scope.TENSOR), semantics=(PAPER,)
)
RESCALE = Parameter(
    Rescale.NONE, "factor on survivors", choices=(Rescale.L1, Rescale.NONE), switch=True
)
