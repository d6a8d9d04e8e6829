"""From a density to the rank of the magnitude at which a task vector is trimmed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import InputError
from .methods._spec import Rule


@dataclass(frozen=True)
class Trim:
    """How many entries stay: all, none, or those from the ``rank``-th largest magnitude up."""

    rank: int
    """Counted from the largest, from 1; 0 when no threshold is needed."""
    keep_all: bool = False


ALL = Trim(0, keep_all=True)
NONE = Trim(0)


def trim(n_elements: int, density: float, rule: Rule, semantics: str) -> Trim:
    """The trim of ``n_elements`` entries to ``density`` under a rule and semantics.

    ``equal: keep`` is the TIES authors' rule: k = int(n * density), the threshold is the (n - k)-th
    smallest magnitude, and all that reach it stay, which is k + 1 entries without equal ones.
    ``equal: first`` keeps exactly k. mergekit keeps at least one entry of a tensor.

    >>> from tallies.methods import get
    >>> trim(10, 0.2, get("ties").rule({"scope": "model", "equal": "keep", "normalize": True},
    ...                                "paper"), "paper")
    Trim(rank=3, keep_all=False)
    """
    if n_elements == 0 or density >= 1:
        return ALL
    if density <= 0:
        return NONE
    k = int(n_elements * density)
    if semantics == "mergekit":
        k = max(1, k)
    if k >= n_elements:
        return ALL
    if rule.equal == "keep":
        return Trim(k + 1)
    return Trim(k) if k > 0 else NONE


def model_densities(rows: Sequence[Sequence[float]], labels: Sequence[str]) -> list[float]:
    """The one density that each expert has over tensors that are ranked together.

    ``rows`` has the experts' densities of each tensor; InputError when one of them varies.
    """
    densities = []
    for expert, label in enumerate(labels):
        values = {row[expert] for row in rows}
        if len(values) > 1:
            raise InputError(
                f"{label}: density varies over the tensors (from {min(values):g} to "
                f"{max(values):g}), but with 'scope: model' one threshold holds for all of them; "
                "give one density, or set 'scope: tensor'"
            )
        densities.append(values.pop() if values else 1.0)
    return densities
