"""From a density to the rank of the magnitude at which a task vector is trimmed."""

from __future__ import annotations

from dataclasses import dataclass

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
