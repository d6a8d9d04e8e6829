"""What ``breadcrumbs`` and ``breadcrumbs_ties`` have in common: the band of what stays."""

from __future__ import annotations

from ..spec.parameters import Parameter
from ._parameters import a_density

PAPER = "Davari and Belilovsky 2023, arXiv 2312.06795"

DENSITY = a_density(0.15, by_semantics={"mergekit": 1.0})
GAMMA = Parameter(
    0.006, "share too large", low=0, high=1, per_model=True, by_semantics={"mergekit": 0.01}
)
SCOPE = Parameter("row", "ranks over", choices=("row", "tensor"), semantics=("paper",))
RESCALE = Parameter("none", "what stays is scaled by", choices=("l1", "none"), switch=True)
