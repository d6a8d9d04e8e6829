"""A matrix plus a scaled product of two small factors: what a LoRA adapter makes of a weight."""

from __future__ import annotations

from .dtype import Array, Floats, ieee, widen


@ieee
def product(left: Array, right: Array) -> Floats:
    """The sum of left[:, k] * right[k, :] over k, float32 [rows, columns].

    The first product starts the sum, so that -0 stays -0; each other is rounded, then added.
    """
    a, b = widen(left), widen(right)
    total = a[:, :1] * b[:1]
    for k in range(1, a.shape[1]):
        total = total + a[:, k : k + 1] * b[k : k + 1]
    return total


@ieee
def added(x: Array, left: Array, right: Array, scale: float = 1.0) -> Floats:
    """x + scale * product, the product of the sum and the scale rounded before it is added."""
    return widen(x) + widen(scale) * product(left, right)
