"""Weights of checkpoints by their order, and the decay for which an average of them stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction


def of_decay(decay: Callable[[float], float], n_models: int) -> list[float]:
    """Theorem 3.1 of Tian et al., WSM, 2025: the weights under which each step counts as decayed.

    With n - 1 steps between n checkpoints and w_j = decay(j / n), the weights are 1 - w_1 of the
    first, w_{n-1} of the last, and w_j - w_{j+1} of those between.
    """
    w = [1.0, *(decay(j / n_models) for j in range(1, n_models)), 0.0]
    return [w[j] - w[j + 1] for j in range(n_models)]


def constant(n_models: int) -> list[float]:
    """Equal weights: the linear decay."""
    return of_decay(lambda x: 1 - x, n_models)


def one_minus_sqrt(n_models: int) -> list[float]:
    """The decay 1 - sqrt(x)."""
    return of_decay(lambda x: 1 - math.sqrt(x), n_models)


def linear(n_models: int) -> list[float]:
    """Li et al. 2025: a weighted moving average, whose t-th of n models has the weight t."""
    return [float(Fraction(t, sum(range(n_models + 1)))) for t in range(1, n_models + 1)]


def ema(n_models: int, decay: float) -> list[float]:
    """The weights that a running average leaves, which begins with the first model."""
    weights: Sequence[Fraction] = [Fraction(1)]
    for _ in range(n_models - 1):
        weights = [*(Fraction(decay) * one for one in weights), 1 - Fraction(decay)]
    return [float(one) for one in weights]
