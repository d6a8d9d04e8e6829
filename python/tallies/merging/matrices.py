"""Counts what a method of matrices merges as matrices, and what goes the other way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..messages import counted
from ..methods._matrix import MatrixMethod

if TYPE_CHECKING:
    from .plan import MergePlan


def matrix_counts(made: MergePlan) -> dict[str, Any] | None:
    """Count the tensors, matrices and parameters that are merged as matrices, and the others.

    Args:
        made: The plan of a merge.

    Returns:
        Plain data; None where the method merges no matrices.
    """
    config = made.config
    method = config.method
    if not issubclass(method, MatrixMethod):
        return None
    counts = {"tensors": 0, "matrices": 0, "parameters": 0}
    others = {"tensors": 0, "parameters": 0}
    for name, parameters in made.parameters.items():
        shape = made.template.tensors[name].shape
        taken = method.takes(name, shape, parameters, config.semantics)
        kind = counts if taken else others
        kind["tensors"] += 1
        kind["parameters"] += math.prod(shape)
        if taken:
            counts["matrices"] += math.prod(shape[:-2])
    rule = str(config.constants()["others"])
    return {**counts, "others": {"rule": rule, **others}}


def in_words(counts: dict[str, Any]) -> str:
    """Return the counts as a line for a person."""
    others = counts["others"]
    n_all = counts["tensors"] + others["tensors"]
    matrices = "1 matrix" if counts["matrices"] == 1 else f"{counts['matrices']:,} matrices"
    said = (
        f"{counts['tensors']} of {counted(n_all, 'tensor')} as {matrices} "
        f"({counts['parameters']:,} parameters)"
    )
    if not others["tensors"]:
        return said
    n_parameters = counts["parameters"] + others["parameters"]
    share = others["parameters"] / max(n_parameters, 1)
    way = {"base": "as in the base"}.get(others["rule"], f"by their {others['rule']}")
    return (
        f"{said}; {others['tensors']} of {n_all} {way}, which are no matrices or excluded "
        f"({others['parameters']:,} parameters, {share:.1%})"
    )
