"""Objections to values that are not finite."""

from __future__ import annotations

from ..checkpoint.safetensors import TensorInfo


def nonfinite_objection(tensor: TensorInfo, count: int, first: int) -> str | None:
    """What is wrong with a tensor that has so many NaN or infinite values; None if it has none."""
    if not count:
        return None
    return (
        f"{tensor.path}: tensor {tensor.name!r} has {count} NaN or infinite values, the first at "
        f"element {first}, expected finite ones; repair the model, or pass --nonfinite propagate"
    )
